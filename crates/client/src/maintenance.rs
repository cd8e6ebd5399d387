//! Maintenance calls that are more than one message.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use tonic::Streaming;

use crate::client::Client;
use crate::error::Error;

/// A database snapshot as it arrives: the file, followed by 32 bytes of SHA-256.
pub struct Snapshot {
    stream: Streaming<pb::SnapshotResponse>,
    first: Option<pb::SnapshotResponse>,
    storage_version: String,
}

impl Snapshot {
    /// The storage version of the server; empty before etcd 3.6.
    pub fn storage_version(&self) -> &str {
        &self.storage_version
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let piece = match self.first.take() {
            Some(first) => Some(first),
            None => self.stream.message().await?,
        };
        Ok(piece.map(|piece| piece.blob))
    }
}

impl Client {
    /// Opens a snapshot stream. The client's deadline bounds only the opening.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        const PATH: &str = "/etcdserverpb.Maintenance/Snapshot";
        let work = async {
            let mut stream =
                self.server_stream::<_, pb::SnapshotResponse>(pb::SnapshotRequest::default(), PATH).await?;
            let first = stream.message().await?;
            let storage_version = first.as_ref().map(|piece| piece.version.clone()).unwrap_or_default();
            Ok(Snapshot { stream, first, storage_version })
        };
        self.within_deadline(PATH, work).await
    }
}
