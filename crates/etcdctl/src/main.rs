//! The program `etcdctl`; all of it is in the library.

fn main() {
    etcdctl::main()
}
