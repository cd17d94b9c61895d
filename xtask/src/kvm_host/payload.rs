//! What one run adds to the emulated host: its command, the programs and
//! libraries of it, and the files it asks for.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Carried, HostRun, program_of};
use crate::archive::Tree;
use crate::assets;
use crate::elf;

/// The script that host-init.sh runs as the command.
const COMMAND: &str = "/etc/kvm-host/command";
/// The variables that host-init.sh reads.
const SETTINGS: &str = "/etc/kvm-host/settings";
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Collects the files of a run; `assets` is where its assets disk belongs.
pub(super) fn collect(run: &HostRun, assets: Option<&Path>) -> Result<Tree> {
    let mut tree = Tree::with_merged_usr()?;
    for carried in &run.carried {
        match carried {
            Carried::Path { source, destination } if source.is_dir() => tree.folder(destination, source)?,
            Carried::Path { source, destination } => add_program(&mut tree, destination, source)?,
            Carried::Text { destination, content } => tree.bytes(destination, content.as_slice(), 0o644)?,
        }
    }
    add_command(&mut tree, run)?;
    let mut environment = vec![
        (OsString::from("PATH"), OsString::from(SEARCH_PATH)),
        (OsString::from("HOME"), OsString::from("/root")),
    ];
    environment.extend(run.environment.iter().cloned());
    let mut settings = Vec::new();
    if let Some(assets) = assets {
        environment.push((assets::VARIABLE.into(), assets.into()));
        settings.extend(assignment("assets", assets.as_os_str()));
    }
    if run.out.is_some() {
        settings.extend(assignment("out", OsStr::new("/out")));
    }
    tree.directory(&run.directory)?;
    tree.bytes(COMMAND, script(run, &environment), 0o644)?;
    tree.bytes(SETTINGS, settings, 0o644)?;
    Ok(tree)
}

/// Writes the base archive and the payload behind it to `output`.
pub(super) fn append(payload: &Tree, base: &Path, output: &Path) -> Result<()> {
    let mut archive = File::create(output)?;
    io::copy(&mut File::open(base)?, &mut archive)?;
    payload.write(archive)
}

/// Puts the command's program inside, unless it is one of busybox' names.
fn add_command(tree: &mut Tree, run: &HostRun) -> Result<()> {
    let word = run.command.first().context("there is no command to run")?;
    if Path::new(word).is_absolute() && tree.contains(word) {
        return Ok(());
    }
    match program_of(word) {
        Some(program) => add_program(tree, &std::path::absolute(&program)?, &program),
        None if assets::applets()?.iter().any(|applet| **applet == **word) => Ok(()),
        None => bail!("there is no program {} on PATH or in busybox", word.to_string_lossy()),
    }
}

/// Adds a file, and if it is a program all that the kernel needs to start it.
fn add_program(tree: &mut Tree, destination: &Path, source: &Path) -> Result<()> {
    tree.file(destination, source)?;
    for library in elf::shared_libraries(source)? {
        if !tree.contains(&library) {
            tree.file(&library, &library)?;
        }
    }
    if let Some(interpreter) = script_interpreter(source)?
        && !tree.contains(&interpreter)
        && interpreter.exists()
    {
        add_program(tree, &interpreter, &interpreter)?;
    }
    Ok(())
}

/// The program after `#!`, if the file is a script.
fn script_interpreter(file: &Path) -> Result<Option<PathBuf>> {
    let content = fs::read(file)?;
    let Some(line) = content.strip_prefix(b"#!") else {
        return Ok(None);
    };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let word = String::from_utf8_lossy(line)
        .split_whitespace()
        .next()
        .map(PathBuf::from);
    Ok(word)
}

fn script(run: &HostRun, environment: &[(OsString, OsString)]) -> Vec<u8> {
    let mut script = Vec::new();
    for (name, value) in environment {
        script.extend_from_slice(b"export ");
        script.extend(assignment(&name.to_string_lossy(), value));
    }
    script.extend_from_slice(b"cd ");
    script.extend(shell_word(run.directory.as_os_str()));
    script.extend_from_slice(b" && exec");
    let mut words = run.command.iter();
    if let Some(program) = words.next() {
        script.push(b' ');
        script.extend(shell_word(&program_inside(program)));
    }
    for word in words {
        script.push(b' ');
        script.extend(shell_word(word));
    }
    script.push(b'\n');
    script
}

/// The command's first word as it holds in the host's working directory.
fn program_inside(word: &OsString) -> OsString {
    if !word.to_string_lossy().contains('/') {
        return word.clone();
    }
    std::path::absolute(word).map_or_else(|_| word.clone(), PathBuf::into_os_string)
}

fn assignment(name: &str, value: &OsStr) -> Vec<u8> {
    let mut line = format!("{name}=").into_bytes();
    line.extend(shell_word(value));
    line.push(b'\n');
    line
}

/// A word that the shell takes for exactly these bytes.
pub(crate) fn shell_word(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(b"'\\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;

    #[test]
    fn a_shell_reads_every_quoted_word_as_it_was() {
        for word in ["", "plain", "two words", "it's", "''", "$HOME `ls` \\ \"x\"\n*"] {
            let mut script = b"printf %s ".to_vec();
            script.extend(shell_word(OsStr::new(word)));
            let output = process::output(process::tool("sh").arg("-c").arg(OsStr::from_bytes(&script)));
            assert_eq!(output.unwrap(), word.as_bytes());
        }
    }

    #[test]
    fn a_dynamic_program_brings_its_libraries_along() {
        let program = std::env::current_exe().unwrap();
        let run = HostRun::new(vec![program.clone().into()]);
        let tree = collect(&run, None).unwrap();
        assert!(tree.contains(&program));
        for library in elf::shared_libraries(&program).unwrap() {
            assert!(tree.contains(&library), "{}", library.display());
        }
    }

    #[test]
    fn an_unknown_program_is_named() {
        let run = HostRun::new(vec!["no-such-program-anywhere".into()]);
        let error = collect(&run, None).err().unwrap();
        assert!(error.to_string().contains("no-such-program-anywhere"));
    }

    #[test]
    fn a_scripts_interpreter_is_found() {
        let scratch = crate::scratch::Scratch::new("interpreter").unwrap();
        let file = scratch.path().join("script");
        fs::write(&file, "#! /bin/sh -e\nexit 0\n").unwrap();
        let interpreter = script_interpreter(&file).unwrap();
        assert_eq!(interpreter, Some(PathBuf::from("/bin/sh")));
    }
}
