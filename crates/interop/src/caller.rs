//! Which process is at the other end of a connection on this machine.
//!
//! The kernel is asked for the one socket (`sock_diag`); its table as text, `/proc/net/tcp`, has
//! thousands of rows while tests run, and is read only where the kernel does not answer. Neither
//! needs privileges for processes of the same user.
//!
//! Layout of the request, 72 bytes, and of its answer, in the host's byte order but for ports and
//! addresses: header of 16 (length, type, flags, number, port id), then `inet_diag_req_v2`
//! (family, protocol, extensions, states, socket id of 48) or `inet_diag_msg` (four bytes, socket id of 48,
//! four numbers, inode).
//!
//! **Source**: sock_diag(7).

use std::net::{SocketAddr, SocketAddrV4};

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const REQUEST_BYTES: u32 = 72;
const INODE_AT: usize = 84;

/// The inode of the socket with these addresses; none if it is closed.
pub fn inode_of(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (local, remote) else { return None };
    let inode = ask(local, remote).unwrap_or_else(|_| look_up(local, remote));
    inode.filter(|inode| *inode != 0)
}

fn ask(local: SocketAddrV4, remote: SocketAddrV4) -> rustix::io::Result<Option<u64>> {
    let kernel =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
    sendto(&kernel, &request(local, remote), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 512];
    let (_, length) = recv(&kernel, &mut answer[..], RecvFlags::empty())?;
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    // Any other answer says that there is no such socket.
    let found = kind == SOCK_DIAG_BY_FAMILY && length >= INODE_AT + 4;
    let inode: [u8; 4] = answer[INODE_AT..INODE_AT + 4].try_into().unwrap_or_default();
    Ok(found.then(|| u64::from(u32::from_ne_bytes(inode))))
}

fn request(local: SocketAddrV4, remote: SocketAddrV4) -> Vec<u8> {
    let mut out = Vec::with_capacity(REQUEST_BYTES as usize);
    out.extend(REQUEST_BYTES.to_ne_bytes());
    out.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out.extend(NLM_F_REQUEST.to_ne_bytes());
    out.extend([0; 8]);
    // IPv4, TCP, no extensions, all states.
    out.extend([2, 6, 0, 0, 255, 255, 255, 255]);
    out.extend(local.port().to_be_bytes());
    out.extend(remote.port().to_be_bytes());
    for address in [local, remote] {
        out.extend(address.ip().octets());
        out.extend([0; 12]);
    }
    // Any interface, no cookie.
    out.extend([0; 4]);
    out.extend([255; 8]);
    out
}

/// The same from the table.
fn look_up(local: SocketAddrV4, remote: SocketAddrV4) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let form = |address: SocketAddrV4| {
        format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
    };
    let (local, remote) = (form(local), form(remote));
    table.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let found = words.next()? == local && words.next()? == remote;
        found.then(|| words.nth(6)?.parse().ok()).flatten()
    })
}

/// Whether a process has this socket open.
pub fn holds(process: u32, inode: u64) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    let name = format!("socket:[{inode}]");
    files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == &*name))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_caller_is_found_until_it_hangs_up() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (local, remote) = (caller.local_addr().unwrap(), caller.peer_addr().unwrap());
        let (accepted, _) = listener.accept().unwrap();
        let inode = inode_of(local, remote).unwrap();
        assert!(holds(std::process::id(), inode));
        assert_ne!(inode_of(remote, local).unwrap(), inode, "that is the other end");
        let (SocketAddr::V4(local_v4), SocketAddr::V4(remote_v4)) = (local, remote) else { panic!() };
        assert_eq!(look_up(local_v4, remote_v4), Some(inode));
        drop((caller, accepted));
        assert_eq!(inode_of(local, remote), None);
    }
}
