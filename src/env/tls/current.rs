//! What was made of the files last: looked at again and again, replaced when they change, kept when what
//! they hold now cannot be used.

use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use xxhash_rust::xxh3::xxh3_64;

use super::files::{Files, Material, TlsError};
use super::{LOOK_INTERVAL, time};
use crate::env::Env;
use crate::env::disk::Disk;

/// What files make, and what speaks against using it although it can be.
pub(super) struct Made<T> {
    pub(super) value: T,
    pub(super) doubt: Option<TlsError>,
}

type Make<T> = Box<dyn Fn(Material) -> Result<Made<T>, TlsError> + Send + Sync>;

/// A value that follows its files.
pub(super) struct Current<T> {
    files: Files,
    make: Make<T>,
    value: RwLock<Arc<T>>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Content that is in use.
    used: u64,
    /// What cannot be used, and whether that was said. Files are replaced one after the other: only what is
    /// still so at the next look is worth a word.
    bad: Option<(u64, bool)>,
}

impl<T: Send + Sync + 'static> Current<T> {
    /// Reads the files. What speaks against them is logged; only what cannot be used is an error.
    pub(super) fn open(
        disk: &dyn Disk,
        files: Files,
        make: impl Fn(Material) -> Result<Made<T>, TlsError> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, TlsError> {
        let material = Material::read(disk, &files)?;
        let used = material.fingerprint;
        let made = make(material)?;
        if let Some(doubt) = &made.doubt {
            tracing::error!("{doubt}");
        }
        let (make, value) = (Box::new(make), RwLock::new(Arc::new(made.value)));
        Ok(Arc::new(Self { files, make, value, seen: Mutex::new(Seen { used, bad: None }) }))
    }

    pub(super) fn get(&self) -> Arc<T> {
        self.value.read().clone()
    }

    /// Looks at the files from now on, for as long as somebody holds the value.
    pub(super) fn follow(self: &Arc<Self>, env: &Env) {
        tokio::spawn(follow(Arc::downgrade(self), env.disk.clone(), env.workers.start("tls-files")));
    }

    /// Looks once.
    pub(super) fn look(&self, disk: &dyn Disk) {
        let mut seen = self.seen.lock();
        let (content, error) = match Material::read(disk, &self.files) {
            Ok(material) if material.fingerprint == seen.used => {
                seen.bad = None;
                return;
            }
            Ok(material) => {
                let content = material.fingerprint;
                match (self.make)(material) {
                    Ok(Made { value, doubt: None }) => {
                        *self.value.write() = Arc::new(value);
                        *seen = Seen { used: content, bad: None };
                        tracing::info!(files = self.shown(), "TLS files have changed: new connections use them");
                        return;
                    }
                    Ok(Made { doubt: Some(error), .. }) | Err(error) => (content, error),
                }
            }
            Err(error) => (xxh3_64(error.to_string().as_bytes()), error),
        };
        match &mut seen.bad {
            Some((bad, said)) if *bad == content => {
                if !std::mem::replace(said, true) {
                    tracing::warn!("TLS files have changed and cannot be used, those before stay in use: {error}");
                }
            }
            bad => *bad = Some((content, false)),
        }
    }

    fn shown(&self) -> String {
        let identity = self.files.identity.iter().flat_map(|identity| [&identity.cert, &identity.key]);
        let paths: Vec<_> = identity.chain(&self.files.ca).map(|path| path.display().to_string()).collect();
        paths.join(", ")
    }
}

async fn follow<T: Send + Sync + 'static>(
    current: Weak<Current<T>>,
    disk: Arc<dyn Disk>,
    worker: crate::env::work::Worker,
) {
    loop {
        time::sleep(LOOK_INTERVAL).await;
        let Some(current) = current.upgrade() else { return };
        let disk = disk.clone();
        if let Err(error) = worker.run(move || current.look(&*disk)).await {
            tracing::error!(%error, "TLS files are not looked at any more");
            return;
        }
    }
}
