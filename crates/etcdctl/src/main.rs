//! etcdctl

fn main() {}
