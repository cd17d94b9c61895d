//! From a layout to one image: index, manifest, configuration (OCI image-spec).

use std::collections::BTreeSet;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};

use super::digest::{Digest, HashingReader};
use super::error::ImageError;
use super::layout::{Layout, hashing};
use super::unpack::Unpacker;
use super::{ImageConfig, compression};

/// The annotation by which an image in a layout is named.
const NAME: &str = "org.opencontainers.image.ref.name";
/// How deep indexes may be nested. It bounds the attack by indexes that name each other.
const MAX_NESTING: u32 = 4;
/// Most descriptors that are looked at, all indexes together.
const MAX_DESCRIPTORS: usize = 4096;
/// Most layers of an image; the writers of images stop at 127.
const MAX_LAYERS: usize = 512;
/// What may stand behind an archive's end marker: the rest of its last record, and then some.
const MAX_TRAILER: u64 = 1 << 20;

const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LAYERS: [&str; 3] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// This host's processor, as images name it.
pub(crate) const fn architecture() -> &'static str {
    match std::env::consts::ARCH.as_bytes() {
        b"x86_64" => "amd64",
        b"aarch64" => "arm64",
        _ => std::env::consts::ARCH,
    }
}

/// An image of a layout whose documents were read and verified.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) config: ImageConfig,
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    digest: Digest,
    size: u64,
    /// The digest of the unpacked archive.
    diff_id: Digest,
}

impl Image {
    /// Finds the image in `layout` that is called `name`, or the only one, for this host's platform.
    pub(crate) fn find(layout: &Layout, name: Option<&str>) -> Result<Self, ImageError> {
        let index: ImageIndex = layout.document("index.json")?;
        let mut search = Search {
            layout,
            seen: 0,
            found: Vec::new(),
            platforms: BTreeSet::new(),
        };
        let named = named(index.manifests(), name)?;
        for descriptor in named {
            search.descriptor(descriptor, 0)?;
        }
        let manifest = search.only()?;
        Self::read(layout, &manifest)
    }

    fn read(layout: &Layout, descriptor: &Descriptor) -> Result<Self, ImageError> {
        let digest = digest(descriptor)?;
        let manifest: ImageManifest = layout.described(&digest, descriptor.size())?;
        let bad = |reason: String| ImageError::BadDocument {
            document: digest.to_string(),
            reason,
        };
        let config_digest = self::digest(manifest.config())?;
        let config: ImageConfiguration = layout.described(&config_digest, manifest.config().size())?;
        let (found, os) = (config.architecture().to_string(), config.os().to_string());
        if found != architecture() || os != "linux" {
            return Err(wrong_platform(format!("{os}/{found}")));
        }
        let diff_ids = config.rootfs().diff_ids();
        if manifest.layers().len() != diff_ids.len() {
            let reason = format!(
                "has {} layers, its configuration names {}",
                manifest.layers().len(),
                diff_ids.len()
            );
            return Err(bad(reason));
        }
        if diff_ids.len() > MAX_LAYERS {
            return Err(bad(format!(
                "has {} layers; at most {MAX_LAYERS} are applied",
                diff_ids.len()
            )));
        }
        let mut layers = Vec::with_capacity(diff_ids.len());
        for (layer, diff_id) in manifest.layers().iter().zip(diff_ids) {
            if !is_layer(layer.media_type()) {
                return Err(bad(format!("has a layer of the unknown type {}", layer.media_type())));
            }
            let diff_id = diff_id
                .parse()
                .map_err(|()| bad(format!("names the layer {diff_id:?}, which is no digest")))?;
            layers.push(Layer {
                digest: self::digest(layer)?,
                size: layer.size(),
                diff_id,
            });
        }
        Ok(Self {
            config: ImageConfig::from_oci(&config),
            layers,
        })
    }

    /// The digest that stands for all layers in their order (OCI image-spec, "Layer ChainID").
    pub(crate) fn chain_id(&self) -> Digest {
        let mut layers = self.layers.iter();
        let first = layers.next().map(|layer| layer.diff_id.clone());
        let first = first.unwrap_or_else(|| Digest::of(b""));
        layers.fold(first, |chain, layer| {
            Digest::of(format!("{chain} {}", layer.diff_id).as_bytes())
        })
    }

    /// Applies all layers, verifying each as it is read: what was unpacked is good only if this succeeds.
    pub(crate) fn unpack(&self, layout: &Layout, unpacker: &mut Unpacker) -> Result<(), ImageError> {
        for layer in &self.layers {
            layer.apply(layout, unpacker)?;
        }
        Ok(())
    }
}

impl Layer {
    fn apply(&self, layout: &Layout, unpacker: &mut Unpacker) -> Result<(), ImageError> {
        let cannot_read = |error: std::io::Error| ImageError::BadArchive {
            reason: format!("of layer {} cannot be read: {error}", self.digest),
        };
        let packed = hashing(layout.blob(&self.digest, self.size)?, &self.digest);
        let content = compression::unpacked(packed).map_err(cannot_read)?;
        let mut content = HashingReader::new(content, self.diff_id.algorithm());
        let unpacked = unpacker.layer(&mut content);
        // Damage is told as damage, whatever the archive looks like because of it: both hashes need all that is left.
        let drained = match &unpacked {
            Ok(()) => content.drain(MAX_TRAILER),
            Err(_) => Ok(()),
        };
        let (content, diff) = content.into_parts();
        let mut packed = content.into_inner().into_inner();
        packed.drain(self.size).map_err(cannot_read)?;
        self.digest.check(packed.into_parts().1)?;
        unpacked?;
        drained.map_err(cannot_read)?;
        self.diff_id.check(diff)
    }
}

/// The search through nested indexes.
struct Search<'a> {
    layout: &'a Layout,
    seen: usize,
    found: Vec<Descriptor>,
    platforms: BTreeSet<String>,
}

impl Search<'_> {
    fn descriptor(&mut self, descriptor: &Descriptor, nesting: u32) -> Result<(), ImageError> {
        self.seen += 1;
        if self.seen > MAX_DESCRIPTORS || nesting > MAX_NESTING {
            return Err(ImageError::BadDocument {
                document: "index.json".to_owned(),
                reason: format!(
                    "leads through more than {MAX_DESCRIPTORS} descriptors or {MAX_NESTING} nested indexes"
                ),
            });
        }
        match descriptor.media_type() {
            MediaType::ImageIndex => self.index(descriptor, nesting),
            MediaType::Other(name) if name == DOCKER_INDEX => self.index(descriptor, nesting),
            MediaType::ImageManifest => self.manifest(descriptor),
            MediaType::Other(name) if name == DOCKER_MANIFEST => self.manifest(descriptor),
            // Signatures and the like stand beside images.
            _ => Ok(()),
        }
    }

    fn index(&mut self, descriptor: &Descriptor, nesting: u32) -> Result<(), ImageError> {
        let index: ImageIndex = self.layout.described(&digest(descriptor)?, descriptor.size())?;
        for inner in index.manifests() {
            self.descriptor(inner, nesting + 1)?;
        }
        Ok(())
    }

    fn manifest(&mut self, descriptor: &Descriptor) -> Result<(), ImageError> {
        if let Some(platform) = descriptor.platform() {
            let (os, found) = (platform.os().to_string(), platform.architecture().to_string());
            if os != "linux" || found != architecture() {
                self.platforms.insert(format!("{os}/{found}"));
                return Ok(());
            }
        }
        if !self.found.iter().any(|known| known.digest() == descriptor.digest()) {
            self.found.push(descriptor.clone());
        }
        Ok(())
    }

    fn only(mut self) -> Result<Descriptor, ImageError> {
        match (self.found.pop(), self.found.is_empty()) {
            (Some(descriptor), true) => Ok(descriptor),
            (Some(descriptor), false) => {
                self.found.push(descriptor);
                Err(ImageError::Ambiguous {
                    names: names(&self.found),
                })
            }
            (None, _) if self.platforms.is_empty() => Err(ImageError::BadDocument {
                document: "index.json".to_owned(),
                reason: "names no image".to_owned(),
            }),
            (None, _) => Err(wrong_platform(Vec::from_iter(self.platforms).join(", "))),
        }
    }
}

/// The descriptors that are called `name`; all of them without a name.
fn named<'a>(descriptors: &'a [Descriptor], name: Option<&str>) -> Result<Vec<&'a Descriptor>, ImageError> {
    let Some(name) = name else {
        return Ok(descriptors.iter().collect());
    };
    let named: Vec<&Descriptor> = descriptors
        .iter()
        .filter(|descriptor| name_of(descriptor) == Some(name))
        .collect();
    match named.is_empty() {
        false => Ok(named),
        true => Err(ImageError::NoSuchImage {
            name: name.to_owned(),
            names: names(descriptors),
        }),
    }
}

fn name_of(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations().as_ref()?.get(NAME).map(String::as_str)
}

/// The names of some descriptors, for people.
fn names(descriptors: &[Descriptor]) -> String {
    let names: Vec<String> = descriptors
        .iter()
        .take(16)
        .map(|descriptor| name_of(descriptor).map_or_else(|| descriptor.digest().to_string(), str::to_owned))
        .collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}

fn is_layer(media_type: &MediaType) -> bool {
    match media_type {
        MediaType::ImageLayer
        | MediaType::ImageLayerGzip
        | MediaType::ImageLayerZstd
        | MediaType::ImageLayerNonDistributable
        | MediaType::ImageLayerNonDistributableGzip
        | MediaType::ImageLayerNonDistributableZstd => true,
        MediaType::Other(name) => DOCKER_LAYERS.contains(&name.as_str()),
        _ => false,
    }
}

fn digest(descriptor: &Descriptor) -> Result<Digest, ImageError> {
    let text = descriptor.digest().to_string();
    text.parse().map_err(|()| ImageError::BadDocument {
        document: text,
        reason: "is no digest of a known algorithm: sha256 and sha512 are".to_owned(),
    })
}

fn wrong_platform(found: String) -> ImageError {
    ImageError::WrongPlatform {
        wanted: format!("linux/{}", architecture()),
        found,
    }
}
