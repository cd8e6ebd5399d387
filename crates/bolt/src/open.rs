//! Finding the newest valid meta page, and making a new file.

use std::io;

use env::File;
use thiserror::Error;

use crate::format::{FLAG_LEAF, MIN_PAGE_SIZE, Meta, MetaError, PageHeader, freelist_image};

/// Why no meta page was found.
#[derive(Debug, Error)]
pub(crate) enum MetaReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// Reads at an offset; returns fewer bytes only at the end.
pub(crate) type ReadAt<'a> = &'a mut dyn FnMut(&mut [u8], u64) -> io::Result<usize>;

/// The valid meta page with the higher transaction id.
///
/// The page size stands in meta page 0. If that one is damaged, meta page 1 is looked for at
/// every possible page size.
pub(crate) fn choose_meta(read: ReadAt<'_>) -> Result<Meta, MetaReadError> {
    let first = meta_at(read, 0)?;
    let second = match first {
        Ok(first) => meta_at(read, u64::from(first.page_size))?,
        Err(_) => search_second(read)?,
    };
    let second = second.and_then(|second| match first {
        Ok(first) if first.page_size != second.page_size => Err(MetaError::NotADatabase),
        _ => Ok(second),
    });
    match (first, second) {
        (Ok(first), Ok(second)) => Ok(if second.txid > first.txid { second } else { first }),
        (Ok(meta), Err(_)) | (Err(_), Ok(meta)) => Ok(meta),
        (Err(error), Err(_)) => Err(error.into()),
    }
}

fn search_second(read: ReadAt<'_>) -> io::Result<Result<Meta, MetaError>> {
    for shift in 0..=14 {
        let offset = (MIN_PAGE_SIZE as u64) << shift;
        if let Ok(meta) = meta_at(read, offset)?
            && u64::from(meta.page_size) == offset
        {
            return Ok(Ok(meta));
        }
    }
    Ok(Err(MetaError::NotADatabase))
}

fn meta_at(read: ReadAt<'_>, offset: u64) -> io::Result<Result<Meta, MetaError>> {
    let mut page = [0; MIN_PAGE_SIZE];
    let count = read(&mut page, offset)?;
    Ok(Meta::parse(&page[..count]))
}

/// Whether the file has never become a database: it is empty, or [`initialize`] was interrupted
/// before it came to the meta pages.
pub(crate) fn is_unborn(file: &dyn File, page_size: u32) -> io::Result<bool> {
    let len = file.len()?;
    if len > 4 * u64::from(page_size) {
        return Ok(false);
    }
    let mut metas = vec![0; 2 * page_size as usize];
    let count = file.read_at(&mut metas, 0)?;
    Ok(metas[..count].iter().all(|byte| *byte == 0))
}

/// Writes a new database: the metas of transactions 0 and 1, an empty freelist, an empty root.
///
/// The pages behind the metas are made durable first, so that a crash leaves either no meta,
/// and the next open begins anew, or a complete database.
pub(crate) fn initialize(file: &dyn File, page_size: u32, sync: bool) -> io::Result<()> {
    let size = page_size as usize;
    let mut body = freelist_image(&[], 2, 1, size);
    body.resize(2 * size, 0);
    PageHeader { id: 3, flags: FLAG_LEAF, count: 0, overflow: 0 }.write(&mut body[size..]);
    let meta = Meta { page_size, root: 3, root_sequence: 0, freelist: 2, high_water: 4, txid: 0 };
    let mut metas = meta.page(0);
    metas.extend(Meta { txid: 1, ..meta }.page(1));

    file.write_at(&body, 2 * u64::from(page_size))?;
    if sync {
        file.sync_data()?;
    }
    file.write_at(&metas, 0)?;
    if sync {
        file.sync_data()?;
    }
    Ok(())
}
