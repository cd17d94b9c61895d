//! What an ELF file needs beside it: interpreter, shared libraries, modules.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use elf::ElfBytes;
use elf::abi::PT_INTERP;
use elf::endian::LittleEndian;

use crate::process;

const MAGIC: &[u8] = b"\x7fELF";

/// The program interpreter (dynamic linker) that `image` asks for, if it is a
/// dynamically linked ELF program.
pub(crate) fn interpreter(image: &[u8]) -> Result<Option<PathBuf>> {
    if !image.starts_with(MAGIC) {
        return Ok(None);
    }
    let file = ElfBytes::<LittleEndian>::minimal_parse(image)?;
    let Some(segments) = file.segments() else {
        return Ok(None);
    };
    let Some(segment) = segments.iter().find(|segment| segment.p_type == PT_INTERP) else {
        return Ok(None);
    };
    let name = file.segment_data(&segment)?;
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    let name = std::str::from_utf8(name).context("the interpreter's name is not UTF-8")?;
    Ok(Some(PathBuf::from(name)))
}

/// All files that the dynamic linker maps for `program`, itself included.
///
/// The program's own linker is asked, as only it knows its search order.
/// A static program has none.
pub(crate) fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let image = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let interpreter = interpreter(&image).with_context(|| format!("{} is not a usable ELF file", program.display()))?;
    let Some(interpreter) = interpreter else {
        return Ok(Vec::new());
    };
    let program = program.canonicalize()?;
    let listing = process::output(
        process::tool(&interpreter.to_string_lossy())
            .arg("--list")
            .arg(&program),
    )?;
    let mut libraries = parse_listing(&String::from_utf8_lossy(&listing))
        .with_context(|| format!("cannot resolve the libraries of {}", program.display()))?;
    libraries.push(interpreter);
    Ok(libraries)
}

/// The paths in the dynamic linker's listing: `name => path (address)` for
/// what it searched, `path (address)` for what was named with a path.
fn parse_listing(listing: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in listing.lines() {
        let line = line.trim();
        let (name, place) = line.split_once(" => ").unwrap_or((line, line));
        if place.starts_with("not found") {
            bail!("the shared library {name} is not installed");
        }
        let path = place.rsplit_once(" (").map_or(place, |(path, _)| path);
        if path.starts_with('/') {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

/// Names of the kernel modules that a module depends on, from the `depends=`
/// entry of its `.modinfo` section.
pub(crate) fn module_dependencies(module: &[u8]) -> Result<Vec<String>> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(module)?;
    let section = file
        .section_header_by_name(".modinfo")?
        .context("the file has no .modinfo section and is no kernel module")?;
    let (data, _) = file.section_data(&section)?;
    let names = data
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="))
        .unwrap_or_default();
    let names = std::str::from_utf8(names).context("the dependencies are not UTF-8")?;
    Ok(names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_program_has_an_interpreter_and_a_c_library() {
        let program = std::env::current_exe().unwrap();
        let interpreter = interpreter(&fs::read(&program).unwrap()).unwrap().unwrap();
        assert!(interpreter.exists());
        let libraries = shared_libraries(&program).unwrap();
        assert!(libraries.iter().any(|path| path.ends_with("libc.so.6")));
        assert!(libraries.contains(&interpreter));
        assert!(libraries.iter().all(|path| path.exists()), "{libraries:?}");
    }

    #[test]
    fn a_file_that_is_no_elf_needs_nothing() {
        assert_eq!(interpreter(b"#!/bin/sh\n").unwrap(), None);
        assert_eq!(interpreter(b"").unwrap(), None);
    }

    #[test]
    fn a_truncated_elf_is_an_error() {
        assert!(interpreter(b"\x7fELF\x02\x01\x01").is_err());
        assert!(module_dependencies(b"\x7fELF\x02\x01\x01").is_err());
    }

    #[test]
    fn a_listing_gives_paths_and_leaves_out_the_vdso() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                       \tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f01)\n\
                       \t/opt/with space/lib.so (0x00007f02)\n\
                       \t/lib64/ld-linux-x86-64.so.2 => /lib64/ld-linux-x86-64.so.2 (0x7f03)\n";
        let paths = [
            "/lib/x86_64-linux-gnu/libgcc_s.so.1",
            "/opt/with space/lib.so",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(parse_listing(listing).unwrap(), paths.map(PathBuf::from));
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = parse_listing("\tlibmissing.so.3 => not found\n").unwrap_err();
        assert!(error.to_string().contains("libmissing.so.3"));
    }
}
