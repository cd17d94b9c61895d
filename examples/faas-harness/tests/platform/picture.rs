//! Reads the pictures that a browser takes: PNG (ISO/IEC 15948) with 8 bits a channel, not interlaced.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use flate2::read::ZlibDecoder;

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// How often each colour is in a picture.
pub fn colours(path: &Path) -> BTreeMap<[u8; 3], usize> {
    let file = std::fs::read(path).unwrap();
    let mut rest = file.strip_prefix(SIGNATURE).expect("a PNG file");
    let (mut width, mut channels, mut packed) = (0, 0, Vec::new());
    while let Some((head, tail)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
        let content = &tail[..length];
        match &head[4..] {
            b"IHDR" => {
                width = u32::from_be_bytes(content[..4].try_into().unwrap()) as usize;
                channels = match (content[8], content[9], content[12]) {
                    (8, 2, 0) => 3,
                    (8, 6, 0) => 4,
                    kind => panic!("a kind of PNG that no browser was seen to write: {kind:?}"),
                };
            }
            b"IDAT" => packed.extend_from_slice(content),
            _ => {}
        }
        // The chunk's checksum follows.
        rest = &tail[length + 4..];
    }
    let mut rows = Vec::new();
    ZlibDecoder::new(&packed[..]).read_to_end(&mut rows).unwrap();
    let mut above = vec![0; width * channels];
    let mut colours = BTreeMap::new();
    for row in rows.chunks_exact(1 + width * channels) {
        let row = unfiltered(row[0], &row[1..], &above, channels);
        for pixel in row.chunks_exact(channels) {
            *colours.entry([pixel[0], pixel[1], pixel[2]]).or_default() += 1;
        }
        above = row;
    }
    colours
}

/// Undoes the filter of a row.
fn unfiltered(filter: u8, row: &[u8], above: &[u8], channels: usize) -> Vec<u8> {
    let mut plain = vec![0_u8; row.len()];
    for index in 0..row.len() {
        let before = |bytes: &[u8]| index.checked_sub(channels).map_or(0, |place| bytes[place]);
        let (left, up, corner) = (before(&plain), above[index], before(above));
        let predicted = match filter {
            0 => 0,
            1 => left,
            2 => up,
            3 => ((u16::from(left) + u16::from(up)) / 2) as u8,
            4 => paeth(left, up, corner),
            _ => panic!("there is no filter {filter}"),
        };
        plain[index] = row[index].wrapping_add(predicted);
    }
    plain
}

fn paeth(left: u8, up: u8, corner: u8) -> u8 {
    let estimate = i16::from(left) + i16::from(up) - i16::from(corner);
    let distance = |value: u8| (estimate - i16::from(value)).abs();
    if distance(left) <= distance(up) && distance(left) <= distance(corner) {
        left
    } else if distance(up) <= distance(corner) {
        up
    } else {
        corner
    }
}
