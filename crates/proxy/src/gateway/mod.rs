//! `etcd gateway`: TCP connections, forwarded to an endpoint that answers.
//!
//! An endpoint that cannot be connected to is left out until it answers again, which is looked at once
//! per interval. What flows through is nobody's business here.
//!
//! Runs on a tokio runtime of the caller; one task per connection, with two buffers of 16 KiB.
//!
//! **Source**: etcd `server/proxy/tcpproxy`.

mod pick;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use server::log;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

pub use pick::Endpoint;
use pick::Picker;

/// `--retry-delay=0`.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// An endpoint that does not answer in this time is as good as dead.
const DIAL: Duration = Duration::from_secs(5);
const BUFFER_BYTES: usize = 16 << 10;
/// Pause after the listener failed: too many open files, mostly.
const BACK_OFF: Duration = Duration::from_millis(100);

/// A gateway.
pub struct Gateway {
    picker: Mutex<Picker>,
    interval: Duration,
}

impl Gateway {
    /// To these endpoints; those that fail are looked at again each `interval`.
    pub fn new(endpoints: Vec<Endpoint>, interval: Duration) -> Arc<Self> {
        let interval = if interval.is_zero() { DEFAULT_INTERVAL } else { interval };
        Arc::new(Self { picker: Mutex::new(Picker::new(endpoints)), interval })
    }

    /// Serves connections for ever.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let addresses: Vec<String> = self.picker.lock().addresses().map(str::to_owned).collect();
        log::info!("ready to proxy client requests", "endpoints" => &addresses);
        tokio::spawn(self.clone().monitor());
        loop {
            match listener.accept().await {
                Ok((caller, _)) => drop(tokio::spawn(self.clone().serve(caller))),
                Err(error) => {
                    log::warn!("failed to accept a connection", "error" => error.to_string());
                    sleep(BACK_OFF).await;
                }
            }
        }
    }

    async fn serve(self: Arc<Self>, mut caller: TcpStream) {
        let Some(mut endpoint) = self.connect().await else { return };
        for stream in [&caller, &endpoint] {
            let _ = stream.set_nodelay(true);
            // One side that is gone without a word must not keep the connection of the other.
            client::detect_death(stream);
        }
        // How a connection ends is for its two ends to say.
        let _ =
            tokio::io::copy_bidirectional_with_sizes(&mut caller, &mut endpoint, BUFFER_BYTES, BUFFER_BYTES)
                .await;
    }

    /// A connection to the next endpoint that answers; `None` if none does.
    async fn connect(&self) -> Option<TcpStream> {
        loop {
            let (number, address) = self.picker.lock().pick()?;
            match dial(&address).await {
                Ok(stream) => return Some(stream),
                Err(error) => {
                    self.picker.lock().set_active(number, false);
                    log::warn!(
                        "deactivated endpoint",
                        "address" => address,
                        "interval" => self.interval,
                        "error" => error
                    );
                }
            }
        }
    }

    async fn monitor(self: Arc<Self>) {
        loop {
            sleep(self.interval).await;
            let inactive = self.picker.lock().inactive();
            for (number, address) in inactive {
                let gateway = self.clone();
                tokio::spawn(async move {
                    match dial(&address).await {
                        Ok(_) => {
                            gateway.picker.lock().set_active(number, true);
                            log::info!("activated", "address" => address);
                        }
                        Err(error) => log::warn!(
                            "failed to activate endpoint (stay inactive for another interval)",
                            "address" => address,
                            "interval" => gateway.interval,
                            "error" => error
                        ),
                    }
                });
            }
        }
    }
}

/// Connects; the error is Go's text.
async fn dial(address: &str) -> Result<TcpStream, String> {
    match timeout(DIAL, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(format!("dial tcp {address}: connect: {}", tls::explain(&error))),
        Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn listen() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    /// Answers each connection with its name.
    fn answer(listener: TcpListener, name: &'static [u8; 1]) -> tokio::task::AbortHandle {
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let _ = socket.write_all(name).await;
            }
        });
        task.abort_handle()
    }

    async fn ask(port: u16) -> Option<u8> {
        let ask = async {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            socket.read_u8().await.ok()
        };
        timeout(Duration::from_secs(20), ask).await.expect("the gateway hangs")
    }

    #[tokio::test]
    async fn an_endpoint_that_died_is_left_out_and_comes_back() {
        let ((first, first_port), (second, second_port), (front, port)) =
            (listen().await, listen().await, listen().await);
        let endpoints = [first_port, second_port].map(|port| Endpoint::new("127.0.0.1", port));
        let gateway = Gateway::new(endpoints.to_vec(), Duration::from_millis(50));
        tokio::spawn(gateway.run(front));
        answer(first, b"1");
        let dying = answer(second, b"2");
        let mut seen = [ask(port).await, ask(port).await];
        seen.sort();
        assert_eq!(seen, [Some(b'1'), Some(b'2')]);
        dying.abort();
        // The listener closes when the runtime drops its task; from then on only one is left.
        let gone = async { while TcpStream::connect(("127.0.0.1", second_port)).await.is_ok() {} };
        timeout(Duration::from_secs(20), gone).await.unwrap();
        for _ in 0..4 {
            assert_eq!(ask(port).await, Some(b'1'));
        }
        answer(TcpListener::bind(("127.0.0.1", second_port)).await.unwrap(), b"2");
        let back = async { while ask(port).await != Some(b'2') {} };
        timeout(Duration::from_secs(20), back).await.unwrap();
    }

    #[tokio::test]
    async fn without_an_endpoint_connections_are_closed() {
        let ((nobody, nobodys_port), (front, port)) = (listen().await, listen().await);
        drop(nobody);
        let gateway = Gateway::new(vec![Endpoint::new("127.0.0.1", nobodys_port)], Duration::from_secs(600));
        tokio::spawn(gateway.run(front));
        assert_eq!(ask(port).await, None);
    }
}
