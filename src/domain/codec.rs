//! Fixed-width, big-endian fields, as snapshots hold them.

use crate::domain::ids::{IdKey, Offset};
use crate::domain::time::Watermark;
use crate::domain::window::Position;

/// The bytes are not what this version writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stored value does not have the form that this version reads")]
pub struct Unreadable;

/// Appends fields to a byte vector.
#[derive(Default)]
pub struct Encoder(pub Vec<u8>);

impl Encoder {
    #[must_use]
    pub fn bytes<const N: usize>(mut self, bytes: [u8; N]) -> Self {
        self.0.extend_from_slice(&bytes);
        self
    }

    #[must_use]
    pub fn i64(self, value: i64) -> Self {
        self.bytes(value.to_be_bytes())
    }

    #[must_use]
    pub fn position(self, position: Position) -> Self {
        self.i64(position.offset.0).i64(position.watermark.0)
    }

    /// A text of at most 65,535 bytes, with its length.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        let mut encoder = self.bytes(length.to_be_bytes());
        encoder.0.extend_from_slice(&text.as_bytes()[..usize::from(length)]);
        encoder
    }
}

/// Reads fields from the front of a byte slice.
pub struct Decoder<'a>(pub &'a [u8]);

impl<'a> Decoder<'a> {
    /// # Errors
    /// When fewer bytes are left.
    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Unreadable)?;
        self.0 = rest;
        Ok(*head)
    }

    /// # Errors
    /// When fewer bytes are left.
    pub fn i64(&mut self) -> Result<i64, Unreadable> {
        self.bytes().map(i64::from_be_bytes)
    }

    /// # Errors
    /// When fewer bytes are left.
    pub fn key(&mut self) -> Result<IdKey, Unreadable> {
        self.bytes().map(IdKey::from_bytes)
    }

    /// # Errors
    /// When fewer bytes are left.
    pub fn position(&mut self) -> Result<Position, Unreadable> {
        Ok(Position { offset: Offset(self.i64()?), watermark: Watermark(self.i64()?) })
    }

    /// # Errors
    /// When fewer bytes are left, or they are not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Unreadable> {
        let length = usize::from(u16::from_be_bytes(self.bytes()?));
        let (text, rest) = self.0.split_at_checked(length).ok_or(Unreadable)?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| Unreadable)
    }

    /// # Errors
    /// When bytes are left over.
    pub fn end(self) -> Result<(), Unreadable> {
        if self.0.is_empty() { Ok(()) } else { Err(Unreadable) }
    }
}
