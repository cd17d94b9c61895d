//! From the user that a process names to numbers, by the accounts of its own root file system.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use super::error::ImageError;
use super::unpack::tree::{Tree, WalkError, parts};

/// Most bytes of `/etc/passwd` and `/etc/group` that are read. It bounds the attack by an image whose accounts fill the
/// memory.
const MAX_ACCOUNTS: u64 = 4 << 20;
/// Folders that the way to the accounts may lead through.
const MAX_DEPTH: usize = 64;

/// A user by number, with the groups of its account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// Further groups, in the order of `/etc/group`.
    pub additional_gids: Vec<u32>,
    /// Home folder, where the account names one.
    pub home: Option<String>,
}

/// Finds `user`, of the form `name`, `uid`, `user:group`, below `root`. A number needs no account.
pub(super) fn resolve(root: OwnedFd, user: &str) -> Result<User, ImageError> {
    let unknown = |reason| ImageError::UnknownUser {
        user: user.to_owned(),
        reason,
    };
    let tree = Tree::new(root, MAX_DEPTH);
    let passwd = accounts(&tree, b"etc/passwd")?;
    let group = accounts(&tree, b"etc/group")?;
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let account = lines(&passwd, 7).find(|fields| fields[0] == name || (number(name).is_some() && fields[2] == name));
    let uid = match &account {
        Some(fields) => number(fields[2]).ok_or_else(|| unknown("its line in /etc/passwd has no number"))?,
        None => number(name).ok_or_else(|| unknown("it is no number and has no line in /etc/passwd"))?,
    };
    let mut found = User {
        uid,
        gid: account.as_ref().and_then(|fields| number(fields[3])).unwrap_or(0),
        additional_gids: Vec::new(),
        home: account
            .as_ref()
            .map(|fields| fields[5].to_owned())
            .filter(|home| !home.is_empty()),
    };
    if let Some(wanted) = group_name {
        let line = lines(&group, 4).find(|fields| fields[0] == wanted);
        found.gid = line
            .and_then(|fields| number(fields[2]))
            .or_else(|| number(wanted))
            .ok_or_else(|| unknown("its group is no number and has no line in /etc/group"))?;
    } else if let Some(account) = &account {
        let is_member = |fields: &Vec<&str>| fields[3].split(',').any(|member| member == account[0]);
        found.additional_gids = lines(&group, 4)
            .filter(is_member)
            .filter_map(|fields| number(fields[2]))
            .filter(|gid| *gid != found.gid)
            .collect();
    }
    Ok(found)
}

/// A user's or group's number. The largest one means "nobody in particular" to the kernel.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number != u32::MAX)
}

/// The lines that have at least `fields` fields.
fn lines(text: &str, fields: usize) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(move |split| split.len() >= fields)
}

/// The text of an account file; nothing where there is none.
fn accounts(tree: &Tree, path: &[u8]) -> Result<String, ImageError> {
    let name = String::from_utf8_lossy(path).into_owned();
    let components: Vec<&[u8]> = parts(path).collect();
    let file = match tree.open_file(&components) {
        Ok(file) => File::from(file),
        Err(WalkError::Os(error)) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(WalkError::Os(error)) => return Err(ImageError::host(name, "open it", error)),
        Err(_) => {
            return Err(ImageError::Entry {
                entry: name,
                reason: "leads out of the root file system or to no file".to_owned(),
            });
        }
    };
    let mut bytes = Vec::new();
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if is_file {
        file.take(MAX_ACCOUNTS)
            .read_to_end(&mut bytes)
            .map_err(|error| ImageError::host(name, "read it", error))?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
