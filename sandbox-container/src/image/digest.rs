//! Content digests (OCI image-spec, "Digests").

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha512};

use super::error::ImageError;

/// An algorithm and its value in lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Digest {
    algorithm: Algorithm,
    value: String,
}

/// The registered algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    const fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    pub(crate) const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The value's digits: safe as a file name.
    pub(crate) fn value(&self) -> &str {
        &self.value
    }

    /// The blob's path in a layout.
    pub(crate) fn path(&self) -> String {
        format!("blobs/{}/{}", self.algorithm.name(), self.value)
    }

    /// Checks content that was hashed.
    pub(crate) fn check(&self, hasher: Hasher) -> Result<(), ImageError> {
        let found = hasher.finish();
        match *self == found {
            true => Ok(()),
            false => Err(ImageError::DigestMismatch {
                digest: self.to_string(),
                found: found.to_string(),
            }),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.value)
    }
}

impl FromStr for Digest {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (name, value) = text.split_once(':').ok_or(())?;
        let algorithm = [Algorithm::Sha256, Algorithm::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or(())?;
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if value.len() != algorithm.digits() || !value.bytes().all(hexadecimal) {
            return Err(());
        }
        Ok(Self {
            algorithm,
            value: value.to_owned(),
        })
    }
}

/// A digest in the making.
#[derive(Clone, Debug)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Box::default()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        let (algorithm, bytes) = match self {
            Self::Sha256(hasher) => (Algorithm::Sha256, hasher.finalize().to_vec()),
            Self::Sha512(hasher) => (Algorithm::Sha512, hasher.finalize().to_vec()),
        };
        let value = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Digest { algorithm, value }
    }
}

/// A reader that hashes what is read through it.
#[derive(Debug)]
pub(crate) struct HashingReader<R> {
    reader: R,
    hasher: Hasher,
    bytes: u64,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(reader: R, algorithm: Algorithm) -> Self {
        Self {
            reader,
            hasher: Hasher::new(algorithm),
            bytes: 0,
        }
    }

    /// Reads what is left, at most `most` bytes; more is an error.
    pub(crate) fn drain(&mut self, most: u64) -> io::Result<()> {
        let mut waste = vec![0; 64 << 10];
        let end = self.bytes.saturating_add(most);
        while self.read(&mut waste)? > 0 {
            if self.bytes > end {
                let reason = "there is too much behind the archive's end";
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
        }
        Ok(())
    }

    /// The reader beneath, and the hash of what was read.
    pub(crate) fn into_parts(self) -> (R, Hasher) {
        (self.reader, self.hasher)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        self.bytes += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_written_as_they_are_read() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), empty);
        assert_eq!(empty.parse(), Ok(Digest::of(b"")));
        let long = Hasher::new(Algorithm::Sha512).finish();
        assert_eq!(long.to_string().parse(), Ok(long));
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        let value = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for text in [
            value.to_owned(),
            format!("md5:{value}"),
            format!("sha512:{value}"),
            format!("sha256:{}", &value[1..]),
            format!("sha256:{}", value.to_uppercase()),
            format!("sha256:../{}", &value[3..]),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
