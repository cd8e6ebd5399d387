//! etcd

fn main() {}
