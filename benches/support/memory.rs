//! A stream in memory.

use std::io::{self, ErrorKind, Read, Write};

/// Reads come from `incoming`, from its front again after [`rewind`](Self::rewind); writes go to `outgoing`.
pub(crate) struct Memory {
    incoming: Vec<u8>,
    /// How many bytes of `incoming` have been read.
    read: usize,
    pub(crate) outgoing: Vec<u8>,
}

impl Memory {
    pub(crate) fn new(incoming: Vec<u8>) -> Self {
        Self { incoming, read: 0, outgoing: Vec::new() }
    }

    /// Everything can be read once more, and nothing has been written.
    pub(crate) fn rewind(&mut self) {
        self.read = 0;
        self.outgoing.clear();
    }
}

impl Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut rest = &self.incoming[self.read..];
        if rest.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let read = rest.read(buffer)?;
        self.read += read;
        Ok(read)
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
