//! The program `etcdutl`; all of it is in the library.

fn main() {
    etcdutl::main()
}
