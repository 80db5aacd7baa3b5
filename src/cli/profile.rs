//! Profiles: settings under a name, in a file that people write. And `profile`, which shows them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::AsyncReadExt;

use super::Context;
use super::args::{Format, Global, ProfileCommand, ReadFrom};
use super::cluster::{Listing, show};
use super::exit::Failure;
use super::settings::Settings;
use crate::env::console::Console;

/// Longest file with profiles.
const PROFILE_FILE_BYTES_MAX: u64 = 64 * 1024;
/// Its name in the directory of configurations.
const FILE_NAME: &str = "kvctl.toml";
/// Holds when none is named, neither on the command line nor in the file.
const PROFILE_DEFAULT: &str = "default";

const HINT: &str = "docs/kvctl.md shows what the file may hold; --profiles names another one";

/// What the file holds.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
struct Content {
    /// The profile that holds when none is named.
    profile: Option<String>,
    #[serde(default)]
    profiles: BTreeMap<String, Settings>,
}

/// The profiles of one file.
#[derive(Default, Debug)]
pub(crate) struct Profiles {
    /// Where the file is, or would be.
    path: Option<PathBuf>,
    content: Content,
}

impl Profiles {
    /// Reads the file that is named, or else the usual one, which may be missing.
    pub(crate) async fn load(console: &Console, named: Option<&Path>) -> Result<Self, Failure> {
        let named = named.filter(|path| !path.as_os_str().is_empty());
        let usual = console.places.config.as_ref().map(|folder| folder.join(FILE_NAME));
        let Some(path) = named.map(Path::to_owned).or(usual) else { return Ok(Self::default()) };
        let input = match console.files.open(&path).await {
            Ok((input, _)) => input,
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { path: Some(path), content: Content::default() });
            }
            Err(error) => return Err(unreadable(&path, &error.to_string())),
        };
        let mut text = String::new();
        let read = input.take(PROFILE_FILE_BYTES_MAX + 1).read_to_string(&mut text).await;
        let read = read.map_err(|error| unreadable(&path, &error.to_string()))?;
        if read as u64 > PROFILE_FILE_BYTES_MAX {
            return Err(unreadable(&path, &format!("holds more than {PROFILE_FILE_BYTES_MAX} bytes")));
        }
        let content = parse(&text).map_err(|why| unreadable(&path, &why))?;
        Ok(Self { path: Some(path), content })
    }

    /// The profile that is named, or else the one that holds by itself, if any does.
    pub(crate) fn choose(&self, named: Option<&str>) -> Result<Option<(&str, &Settings)>, Failure> {
        let own = self.content.profile.as_deref();
        let Some(name) = named.filter(|name| !name.is_empty()).or(own) else {
            let usual = self.content.profiles.get_key_value(PROFILE_DEFAULT);
            return Ok(usual.map(|(name, settings)| (name.as_str(), settings)));
        };
        match self.content.profiles.get_key_value(name) {
            Some((name, settings)) => Ok(Some((name.as_str(), settings))),
            None => Err(self.unknown(name)),
        }
    }

    /// All names, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.content.profiles.keys().map(String::as_str)
    }

    fn file(&self) -> Option<String> {
        self.path.as_ref().map(|path| path.display().to_string())
    }

    fn unknown(&self, name: &str) -> Failure {
        let names: Vec<_> = self.names().collect();
        // Without a home directory there is no usual file.
        if self.path.is_none() {
            return Failure::usage(format!("there is no profile `{name}`, and no file with profiles"), HINT);
        }
        let what = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let message = format!("there is no profile `{name}`: {} has {what}", self.file().unwrap_or_default());
        Failure::usage(message, format!("name one of them, or write a section [profiles.{name}]"))
    }
}

fn unreadable(path: &Path, why: &str) -> Failure {
    Failure::usage(why, HINT).at(&path.display().to_string())
}

/// Reads a file's text; the error is one line that says where.
fn parse(text: &str) -> Result<Content, String> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
        let why = error.message().lines().collect::<Vec<_>>().join(" ");
        line.map_or_else(|| why.clone(), |line| format!("line {line}: {why}"))
    })
}

/// What holds from the start on: options and variables over the profile.
pub(crate) fn settle(profiles: &Profiles, global: &Global) -> Result<(Option<String>, Settings), Failure> {
    let chosen = profiles.choose(global.profile.as_deref())?;
    let weaker = chosen.map(|(_, settings)| settings.clone()).unwrap_or_default();
    Ok((chosen.map(|(name, _)| name.to_owned()), global.settings.clone().or(weaker)))
}

pub(crate) async fn profile(context: &mut Context<'_>, command: ProfileCommand) -> Result<(), Failure> {
    let listing = match command {
        ProfileCommand::List => listing(context.profiles, context.profile),
        ProfileCommand::Show => {
            // Every command would refuse it.
            context.settings.consistency()?;
            effective(context)
        }
    };
    show(context, listing).await
}

fn listing(profiles: &Profiles, holds: Option<&str>) -> Listing {
    let mut rows = Vec::new();
    let mut list = Vec::new();
    for (name, settings) in &profiles.content.profiles {
        let used = holds == Some(name);
        let mut row = vec![name.clone(), if used { "*" } else { "-" }.to_owned()];
        let mut object = Map::new();
        object.insert("name".into(), name.as_str().into());
        object.insert("used".into(), used.into());
        for (name, value) in described(settings) {
            row.push(text(&value));
            object.insert(name.into(), value);
        }
        rows.push(row);
        list.push(Value::from(object));
    }
    Listing {
        header: &[
            "NAME",
            "USED",
            "ENDPOINTS",
            "KEYSPACE",
            "TIMEOUT_MS",
            "READ",
            "MAX_STALE_MS",
            "ZONE",
            "OUTPUT",
            "TLS_CA",
            "TLS_CERT",
            "TLS_KEY",
        ],
        rows,
        json: json!({ "file": profiles.file(), "profiles": list }),
    }
}

fn effective(context: &Context<'_>) -> Listing {
    let held = context.settings;
    let held = Settings {
        endpoints: Some(held.endpoints().into_iter().map(str::to_owned).collect()),
        keyspace: Some(held.keyspace().to_owned()),
        read: held.read.or(held.max_stale.map(|_| ReadFrom::Stale)).or(Some(ReadFrom::Linearizable)),
        output: Some(held.output()),
        ..held.clone()
    };
    let mut settings = vec![("profile", json!(context.profile)), ("file", json!(context.profiles.file()))];
    settings.extend(described(&held));
    Listing {
        header: &["SETTING", "VALUE"],
        rows: settings.iter().map(|(name, value)| vec![(*name).to_owned(), text(value)]).collect(),
        json: settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>().into(),
    }
}

/// Settings by name; `null` is one that is left open.
fn described(settings: &Settings) -> [(&'static str, Value); 10] {
    let ms = |time: Option<Duration>| time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let output = settings.output.map(|output| match output {
        Format::Simple => "simple",
        Format::Table => "table",
        Format::Json => "json",
    });
    let read = settings.read.map(|read| match read {
        ReadFrom::Linearizable => "linearizable",
        ReadFrom::Follower => "follower",
        ReadFrom::Stale => "stale",
    });
    [
        ("endpoints", json!(settings.endpoints)),
        ("keyspace", json!(settings.keyspace)),
        ("timeout_ms", json!(ms(settings.timeout))),
        ("read", json!(read)),
        ("max_stale_ms", json!(ms(settings.max_stale))),
        ("zone", json!(settings.zone)),
        ("output", json!(output)),
        ("tls_ca", json!(settings.tls_ca)),
        ("tls_cert", json!(settings.tls_cert)),
        ("tls_key", json!(settings.tls_key)),
    ]
}

/// A setting on a line for people.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Format, Global, Profiles, Settings, parse, settle};

    const TEXT: &str = "
        [profiles.prod]
        endpoints = [\"a:1\", \"b:1\"]
        keyspace = \"events\"
        timeout = \"10s\"
        output = \"table\"

        [profiles.default]
        keyspace = \"mine\"
    ";

    fn profiles(text: &str) -> Profiles {
        Profiles { path: Some("kvctl.toml".into()), content: parse(text).unwrap() }
    }

    #[test]
    fn a_flag_wins_over_a_profile_and_a_named_profile_over_the_usual_one() {
        let profiles = profiles(TEXT);
        let flags = Settings { keyspace: Some("flag".into()), ..Settings::default() };
        let global = Global { profile: Some("prod".into()), settings: flags, profiles: None };
        let (name, held) = settle(&profiles, &global).unwrap();
        assert_eq!((name.as_deref(), held.keyspace()), (Some("prod"), "flag"));
        assert_eq!((held.endpoints(), held.output()), (vec!["a:1", "b:1"], Format::Table));
        assert_eq!(held.timeout, Some(Duration::from_secs(10)));
        let (name, held) = settle(&profiles, &Global::default()).unwrap();
        assert_eq!((name.as_deref(), held.keyspace()), (Some("default"), "mine"));
    }

    #[test]
    fn the_file_may_say_which_profile_holds() {
        let chosen = |text: &str| profiles(text).choose(None).unwrap().map(|(name, _)| name.to_owned());
        assert_eq!(chosen(&format!("profile = \"prod\"\n{TEXT}")).as_deref(), Some("prod"));
        assert_eq!(chosen("[profiles.other]\n"), None);
        assert_eq!(chosen(""), None);
        assert!(profiles("profile = \"gone\"\n").choose(None).is_err());
        // A variable that is set to nothing names none.
        assert!(profiles("").choose(Some("")).unwrap().is_none());
    }

    #[test]
    fn errors_name_the_place_and_what_there_is() {
        let failure = profiles(TEXT).choose(Some("production")).unwrap_err();
        assert_eq!(failure.message, "there is no profile `production`: kvctl.toml has default, prod");
        for (text, expected) in [
            ("[profiles.a]\nendpoint = []\n", ["line 2", "unknown field `endpoint`", "`endpoints`"]),
            ("\nprofil = \"a\"\n", ["line 2", "unknown field `profil`", "`profiles`"]),
            ("[profiles.a]\ntimeout = \"soon\"\n", ["line 2", "`soon` is no duration", "500ms"]),
            ("[profiles.a]\noutput = \"xml\"\n", ["line 2", "unknown variant `xml`", "`table`"]),
            ("[profiles.a\n", ["line 1", "", ""]),
        ] {
            let error = parse(text).unwrap_err();
            assert!(expected.iter().all(|part| error.contains(part)) && !error.contains('\n'), "{error}");
        }
    }
}
