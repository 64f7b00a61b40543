//! UTF-8 that arrives in pieces (RFC 6455 §8.1, RFC 3629).

/// The bytes are not UTF-8, and no further byte can make them so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

/// Validates text piece by piece, wherever it is cut.
///
/// It fails at the first byte that no continuation could make valid, and keeps at most the three bytes of an
/// unfinished code point. `compat` of simdutf8 is used, and not its streaming validators: these run ASCII at a
/// ninth of its speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validator {
    /// The unfinished code point: `pending[..pending_len]`, each a valid beginning of one.
    pending: [u8; 3],
    /// 0..=3
    pending_len: u8,
}

impl Validator {
    /// A validator at the beginning of a text.
    #[must_use]
    pub const fn new() -> Self {
        Self { pending: [0; 3], pending_len: 0 }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    ///
    /// [`Invalid`] at the first bad byte. The validator must not be used further then.
    #[inline]
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Invalid> {
        let rest = if self.pending_len == 0 { piece } else { self.complete(piece)? };
        let Err(error) = simdutf8::compat::from_utf8(rest) else {
            return Ok(());
        };
        if error.error_len().is_some() {
            return Err(Invalid);
        }
        for &byte in rest.get(error.valid_up_to()..).unwrap_or_default() {
            self.keep(byte)?;
        }
        Ok(())
    }

    /// Takes the next piece, of which it is known that it is ASCII.
    ///
    /// # Errors
    ///
    /// [`Invalid`] when a code point was unfinished and the piece is not empty.
    #[inline]
    pub fn push_ascii(&mut self, piece: &[u8]) -> Result<(), Invalid> {
        if self.pending_len == 0 || piece.is_empty() { Ok(()) } else { Err(Invalid) }
    }

    /// The bytes of the code point that is not finished yet: at most three.
    #[inline]
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        self.pending.get(..usize::from(self.pending_len)).unwrap_or_default()
    }

    /// Whether the text may end here.
    #[inline]
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.pending_len == 0
    }

    /// Completes the unfinished code point from the front of `piece` and gives what is left of the piece.
    fn complete<'a>(&mut self, mut piece: &'a [u8]) -> Result<&'a [u8], Invalid> {
        while !self.is_complete() {
            let Some((&next, rest)) = piece.split_first() else {
                return Ok(piece);
            };
            let [a, b, c] = self.pending;
            let mut point = [a, b, c, 0];
            let len = usize::from(self.pending_len);
            if let Some(slot) = point.get_mut(len) {
                *slot = next;
            }
            match str::from_utf8(point.get(..=len).unwrap_or_default()) {
                Ok(_) => *self = Self::default(),
                Err(error) if error.error_len().is_none() => self.keep(next)?,
                Err(_) => return Err(Invalid),
            }
            piece = rest;
        }
        Ok(piece)
    }

    fn keep(&mut self, byte: u8) -> Result<(), Invalid> {
        let slot = self.pending.get_mut(usize::from(self.pending_len)).ok_or(Invalid)?;
        *slot = byte;
        self.pending_len += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `core::str` says of the whole: `Ok(complete)` or at which byte it fails for good.
    fn reference(text: &[u8]) -> Result<bool, Invalid> {
        match str::from_utf8(text) {
            Ok(_) => Ok(true),
            Err(error) if error.error_len().is_none() => Ok(false),
            Err(_) => Err(Invalid),
        }
    }

    fn pieces(text: &[u8], cut: usize) -> Result<bool, Invalid> {
        let mut validator = Validator::default();
        let (a, b) = text.split_at(cut);
        validator.push(a)?;
        validator.push(b)?;
        Ok(validator.is_complete())
    }

    fn check(text: &[u8]) {
        let expected = reference(text);
        for cut in 0..=text.len() {
            assert_eq!(pieces(text, cut), expected, "{text:02x?} cut at {cut}");
        }
        let mut validator = Validator::default();
        for (i, byte) in text.iter().enumerate() {
            let pushed = validator.push(std::slice::from_ref(byte));
            assert_eq!(
                pushed.is_ok(),
                reference(&text[..=i]).is_ok(),
                "{text:02x?} fails at its first bad byte"
            );
            if pushed.is_err() {
                return;
            }
        }
        assert_eq!(Ok(validator.is_complete()), expected);
    }

    #[test]
    fn utf8_across_borders_one_to_three_bytes() {
        for a in 0..=255 {
            check(&[a]);
            for b in 0..=255 {
                check(&[a, b]);
            }
        }
        // Third bytes: both sides of every border that a continuation byte has.
        for a in 0xC0..=255 {
            for b in 0x7E..=0xC1 {
                for c in [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF] {
                    check(&[a, b, c]);
                }
            }
        }
    }

    #[test]
    #[ignore = "volume: all 16.7 million sequences of three bytes, cut at each border"]
    fn utf8_across_borders_all_three_bytes() {
        for first in 0..=255 {
            for second in 0..=255 {
                for third in 0..=255 {
                    check(&[first, second, third]);
                }
            }
        }
    }

    #[test]
    fn utf8_across_borders_four_byte_lead_pairs() {
        for a in 0xF0..=0xFF {
            for b in 0..=255 {
                for tail in [[0x80, 0x80], [0xBF, 0xBF], [0x7F, 0x80], [0x80, 0xC0], [0x41, 0x42]] {
                    check(&[a, b, tail[0], tail[1]]);
                    check(&[b'x', a, b, tail[0], tail[1], b'y']);
                }
            }
        }
    }

    #[test]
    fn ascii_after_a_cut_code_point_is_invalid() {
        let mut validator = Validator::default();
        assert_eq!(validator.push_ascii(b"abc"), Ok(()));
        assert_eq!(validator.push(&[0xE2, 0x82]), Ok(()));
        assert_eq!(validator.pending(), [0xE2, 0x82]);
        assert_eq!(validator.push_ascii(b""), Ok(()));
        assert_eq!(validator.push_ascii(b"a"), Err(Invalid));
    }
}
