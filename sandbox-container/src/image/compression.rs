//! Layers as they are packed: plain, gzip (RFC 1952) or Zstandard (RFC 8878), told apart by their first bytes, because
//! writers of images are not always right about the media type.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// The second to fourth byte of a skippable frame (RFC 8878 §3.1.2); the first is 0x50 to 0x5f.
const ZSTD_SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];
/// Most memory in bytes that a frame may demand for its window: what the reference decoder takes unasked. It bounds the
/// attack by a frame of a few bytes that claims a window of terabytes.
const MAX_WINDOW: u64 = 128 << 20;

/// The content of a stream that is packed or not.
pub(crate) enum Unpacked<R: BufRead> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(Box<ZstdReader<R>>),
}

/// A reader of the content of `reader`.
pub(crate) fn unpacked<R: Read>(reader: R) -> io::Result<Unpacked<BufReader<R>>> {
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    let start = reader.fill_buf()?;
    let skippable = start.first().is_some_and(|byte| byte & 0xf0 == 0x50) && start[1..].starts_with(ZSTD_SKIPPABLE);
    Ok(if start.starts_with(GZIP) {
        Unpacked::Gzip(Box::new(MultiGzDecoder::new(reader)))
    } else if start.starts_with(ZSTD) || skippable {
        Unpacked::Zstd(Box::new(ZstdReader::new(reader)))
    } else {
        Unpacked::Plain(reader)
    })
}

impl<R: BufRead> Unpacked<R> {
    /// The reader beneath.
    pub(crate) fn into_inner(self) -> R {
        match self {
            Self::Plain(reader) => reader,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.source,
        }
    }
}

impl<R: BufRead> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// All frames of a Zstandard stream one after the other, as parallel writers make them.
pub(crate) struct ZstdReader<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> ZstdReader<R> {
    fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW);
        Self {
            source,
            decoder,
            in_frame: false,
        }
    }

    /// Goes to the next frame that has content. False at the end of the stream.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(invalid(error)),
            }
        }
    }
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame {
                if !self.next_frame()? {
                    return Ok(0);
                }
                self.in_frame = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let strategy = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder
                    .decode_blocks(&mut self.source, strategy)
                    .map_err(invalid)?;
            }
            let length = self.decoder.read(buffer)?;
            if length > 0 {
                return Ok(length);
            }
            self.in_frame = false;
        }
    }
}

fn invalid(error: FrameDecoderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn read(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        unpacked(packed)?.read_to_end(&mut content)?;
        Ok(content)
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(content: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn packed_and_plain_streams_have_the_same_content() {
        let content = b"content ".repeat(100_000);
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], &*zstd(&content)].concat();
        for packed in [content.clone(), gzip(&content), zstd(&content), skippable] {
            assert!(read(&packed).unwrap() == content);
        }
        assert_eq!(read(b"").unwrap(), b"");
    }

    #[test]
    fn several_members_or_frames_are_one_stream() {
        for pack in [gzip, zstd] {
            let packed = [pack(b"one "), pack(b""), pack(b"two")].concat();
            assert_eq!(read(&packed).unwrap(), b"one two");
        }
    }

    #[test]
    fn cut_off_streams_are_errors() {
        let content: Vec<u8> = (0..20_000_u32)
            .flat_map(|number| (number.wrapping_mul(2_654_435_761)).to_le_bytes())
            .collect();
        for packed in [gzip(&content), zstd(&content)] {
            for length in [5, packed.len() / 2, packed.len() - 1] {
                assert!(read(&packed[..length]).is_err(), "{length}");
            }
        }
    }

    #[test]
    fn a_frame_that_claims_an_enormous_window_is_refused() {
        // RFC 8878 §3.1.1.1.2: exponent 31, mantissa 7 is 3.75 TB.
        let frame = [ZSTD, &[0x00, 0xff, 1, 0, 0]].concat();
        assert_eq!(read(&frame).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
