//! Profiles in the form of `pprof`: one gzip'd message.
//!
//! **Source**: field numbers of `google/pprof` `proto/profile.proto`.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use super::modules::Module;

/// The whole.
#[derive(Clone, PartialEq, Message)]
pub struct Profile {
    /// What the values of a sample are.
    #[prost(message, repeated, tag = "1")]
    pub sample_type: Vec<ValueType>,
    /// What was met.
    #[prost(message, repeated, tag = "2")]
    pub sample: Vec<Sample>,
    /// Files in memory.
    #[prost(message, repeated, tag = "3")]
    pub mapping: Vec<Mapping>,
    /// Places in code.
    #[prost(message, repeated, tag = "4")]
    pub location: Vec<Location>,
    /// Functions.
    #[prost(message, repeated, tag = "5")]
    pub function: Vec<Function>,
    /// All texts; others name them by their place here. The first is empty.
    #[prost(string, repeated, tag = "6")]
    pub string_table: Vec<String>,
    /// When it was taken, since the Unix epoch.
    #[prost(int64, tag = "9")]
    pub time_nanos: i64,
    /// For how long.
    #[prost(int64, tag = "10")]
    pub duration_nanos: i64,
    /// What lies between two samples.
    #[prost(message, optional, tag = "11")]
    pub period_type: Option<ValueType>,
    /// How much of it.
    #[prost(int64, tag = "12")]
    pub period: i64,
    /// Remarks.
    #[prost(int64, repeated, tag = "13")]
    pub comment: Vec<i64>,
}

/// A kind of value.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ValueType {
    /// Its name.
    #[prost(int64, tag = "1")]
    pub kind: i64,
    /// Its unit.
    #[prost(int64, tag = "2")]
    pub unit: i64,
}

/// Something that was met.
#[derive(Clone, PartialEq, Message)]
pub struct Sample {
    /// Where, innermost first.
    #[prost(uint64, repeated, tag = "1")]
    pub location_id: Vec<u64>,
    /// How much of each kind.
    #[prost(int64, repeated, tag = "2")]
    pub value: Vec<i64>,
    /// Remarks.
    #[prost(message, repeated, tag = "3")]
    pub label: Vec<Label>,
}

/// A remark.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Label {
    /// Its name.
    #[prost(int64, tag = "1")]
    pub key: i64,
    /// Its text.
    #[prost(int64, tag = "2")]
    pub text: i64,
}

/// A file in memory.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Mapping {
    /// Not zero.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// First address.
    #[prost(uint64, tag = "2")]
    pub memory_start: u64,
    /// Behind the last one.
    #[prost(uint64, tag = "3")]
    pub memory_limit: u64,
    /// Where that is in the file.
    #[prost(uint64, tag = "4")]
    pub file_offset: u64,
    /// Path.
    #[prost(int64, tag = "5")]
    pub filename: i64,
    /// Identifies the build.
    #[prost(int64, tag = "6")]
    pub build_id: i64,
    /// The names of functions are given.
    #[prost(bool, tag = "7")]
    pub has_functions: bool,
}

/// A place in code.
#[derive(Clone, PartialEq, Message)]
pub struct Location {
    /// Not zero.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The file.
    #[prost(uint64, tag = "2")]
    pub mapping_id: u64,
    /// The address.
    #[prost(uint64, tag = "3")]
    pub address: u64,
    /// The function.
    #[prost(message, repeated, tag = "4")]
    pub line: Vec<Line>,
}

/// A place in a function.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Line {
    /// The function.
    #[prost(uint64, tag = "1")]
    pub function_id: u64,
}

/// A function.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Function {
    /// Not zero.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its name.
    #[prost(int64, tag = "2")]
    pub name: i64,
    /// The linker's name.
    #[prost(int64, tag = "3")]
    pub system_name: i64,
}

/// Puts a profile together.
pub struct Builder<'m> {
    profile: Profile,
    texts: BTreeMap<String, i64>,
    functions: BTreeMap<String, u64>,
    locations: BTreeMap<u64, u64>,
    named: BTreeMap<String, u64>,
    modules: &'m [Module],
}

impl<'m> Builder<'m> {
    /// A profile whose samples have these values: name and unit.
    pub fn new(kinds: &[(&str, &str)], modules: &'m [Module]) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut builder = Self {
            profile: Profile { time_nanos: nanos(now), ..Profile::default() },
            texts: BTreeMap::new(),
            functions: BTreeMap::new(),
            locations: BTreeMap::new(),
            named: BTreeMap::new(),
            modules,
        };
        builder.text("");
        for (kind, unit) in kinds {
            let kind = ValueType { kind: builder.text(kind), unit: builder.text(unit) };
            builder.profile.sample_type.push(kind);
        }
        for (number, module) in modules.iter().enumerate() {
            let Some(code) = module.code() else { continue };
            let mapping = Mapping {
                id: number as u64 + 1,
                memory_start: code.start,
                memory_limit: code.end,
                file_offset: code.offset,
                filename: builder.text(&module.path),
                build_id: builder.text(&module.build_id),
                has_functions: true,
            };
            builder.profile.mapping.push(mapping);
        }
        builder
    }

    /// The samples were taken in this time, one for each `period` of `kind`.
    pub fn over(&mut self, length: Duration, period: Duration, kind: (&str, &str)) {
        self.profile.duration_nanos = nanos(length);
        self.profile.period = nanos(period);
        let kind = ValueType { kind: self.text(kind.0), unit: self.text(kind.1) };
        self.profile.period_type = Some(kind);
    }

    /// A remark on the whole.
    pub fn remark(&mut self, text: &str) {
        let text = self.text(text);
        self.profile.comment.push(text);
    }

    /// A stack, innermost first.
    pub fn stack(&mut self, stack: &[u64], value: Vec<i64>, labels: &[(&str, &str)]) {
        let mut location_id = Vec::with_capacity(stack.len());
        for (depth, address) in stack.iter().enumerate() {
            // Callers are at the call, not behind it.
            let address = if depth == 0 { *address } else { address - 1 };
            location_id.push(self.location(address));
        }
        self.sample(location_id, value, labels);
    }

    /// Something that is not code.
    pub fn thing(&mut self, name: &str, value: Vec<i64>) {
        let next = self.profile.location.len() as u64 + 1;
        let id = *self.named.entry(name.to_owned()).or_insert(next);
        if id == next {
            let line = vec![Line { function_id: self.function(name.to_owned()) }];
            self.profile.location.push(Location { id, mapping_id: 0, address: 0, line });
        }
        self.sample(vec![id], value, &[]);
    }

    fn sample(&mut self, location_id: Vec<u64>, value: Vec<i64>, labels: &[(&str, &str)]) {
        let label = labels.iter().map(|(key, text)| Label { key: self.text(key), text: self.text(text) });
        let label = label.collect();
        self.profile.sample.push(Sample { location_id, value, label });
    }

    fn location(&mut self, address: u64) -> u64 {
        if let Some(id) = self.locations.get(&address) {
            return *id;
        }
        let id = self.profile.location.len() as u64 + 1;
        let found = self.modules.iter().position(|module| module.has_code_at(address));
        let name = found.and_then(|number| self.modules[number].function(address));
        let line = name.map(|name| Line { function_id: self.function(name) }).into_iter().collect();
        let mapping_id = found.map_or(0, |number| number as u64 + 1);
        self.profile.location.push(Location { id, mapping_id, address, line });
        self.locations.insert(address, id);
        id
    }

    fn function(&mut self, name: String) -> u64 {
        if let Some(id) = self.functions.get(&name) {
            return *id;
        }
        let id = self.profile.function.len() as u64 + 1;
        let text = self.text(&name);
        self.profile.function.push(Function { id, name: text, system_name: text });
        self.functions.insert(name, id);
        id
    }

    fn text(&mut self, text: &str) -> i64 {
        if let Some(place) = self.texts.get(text) {
            return *place;
        }
        let place = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.to_owned());
        self.texts.insert(text.to_owned(), place);
        place
    }

    /// The file.
    pub fn finish(self) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        // Writing to memory does not fail.
        let written = encoder.write_all(&self.profile.encode_to_vec());
        debug_assert!(written.is_ok());
        encoder.finish().unwrap_or_default()
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}
