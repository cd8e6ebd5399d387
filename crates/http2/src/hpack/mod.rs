//! Header compression (RFC 7541): [`Decoder`], [`Encoder`], and the [`Field`]s they share with
//! heads.

mod decoder;
mod encoder;
mod field;
mod huffman;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use decoder::{Decoded, Decoder};
pub(crate) use encoder::Encoder;
pub use field::Field;
pub(crate) use field::Kind;
