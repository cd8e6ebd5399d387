//! What the transcoding has to know of each message, made from the descriptors of crate `proto`.
//!
//! Fields keep the order of their declaration, which is the order of the output.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

/// The schemas of the client API.
pub static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(proto::DESCRIPTORS).expect("made by our own build");
    Schema::new(&set)
});

/// A message of [`SCHEMA`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageId(usize);

/// All messages and enums, by number.
#[derive(Debug)]
pub struct Schema {
    messages: Vec<MessageType>,
    enums: Vec<EnumType>,
    by_name: HashMap<String, usize>,
}

/// A message.
#[derive(Debug, Default)]
pub(crate) struct MessageType {
    /// In the order of the declaration.
    pub(crate) fields: Vec<Field>,
    /// Full names of the oneofs.
    pub(crate) oneofs: Vec<String>,
    /// JSON names and original names.
    by_name: HashMap<String, usize>,
    by_number: HashMap<u32, usize>,
}

/// A field of a message.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) json_name: String,
    pub(crate) number: u32,
    pub(crate) kind: Kind,
    pub(crate) repeated: bool,
    pub(crate) oneof: Option<usize>,
}

/// Types of fields that the client API uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Int32,
    Int64,
    Uint32,
    Uint64,
    String,
    Bytes,
    Enum(usize),
    Message(MessageId),
}

/// An enum.
#[derive(Debug)]
pub(crate) struct EnumType {
    values: Vec<(i32, String)>,
}

impl Schema {
    fn new(set: &FileDescriptorSet) -> Self {
        let mut names = Names::default();
        // What is on disk has kinds of fields that JSON never sees.
        let files = || set.file.iter().filter(|file| file.syntax() == "proto3");
        for file in files() {
            let prefix = format!(".{}", file.package());
            file.message_type.iter().for_each(|message| names.add(&prefix, message));
            file.enum_type.iter().for_each(|declared| names.add_enum(&prefix, declared));
        }
        let messages = names.messages.iter().map(|(name, message)| names.message(name, message)).collect();
        let enums = names.enums.iter().map(|declared| EnumType::new(declared)).collect();
        let by_name =
            names.message_numbers.iter().map(|(name, number)| (name[1..].to_owned(), *number)).collect();
        Self { messages, enums, by_name }
    }

    /// The message of a full name, `package.Name`.
    pub fn message(&self, name: &str) -> Option<MessageId> {
        self.by_name.get(name).copied().map(MessageId)
    }

    pub(crate) fn get(&self, id: MessageId) -> &MessageType {
        &self.messages[id.0]
    }

    pub(crate) fn enumeration(&self, number: usize) -> &EnumType {
        &self.enums[number]
    }
}

/// Declared types on their way to numbers.
#[derive(Default)]
struct Names<'a> {
    messages: Vec<(String, &'a DescriptorProto)>,
    message_numbers: HashMap<String, usize>,
    enums: Vec<&'a EnumDescriptorProto>,
    enum_numbers: HashMap<String, usize>,
}

impl<'a> Names<'a> {
    fn add(&mut self, prefix: &str, message: &'a DescriptorProto) {
        let name = format!("{prefix}.{}", message.name());
        message.nested_type.iter().for_each(|nested| self.add(&name, nested));
        message.enum_type.iter().for_each(|declared| self.add_enum(&name, declared));
        self.message_numbers.insert(name.clone(), self.messages.len());
        self.messages.push((name, message));
    }

    fn add_enum(&mut self, prefix: &str, declared: &'a EnumDescriptorProto) {
        self.enum_numbers.insert(format!("{prefix}.{}", declared.name()), self.enums.len());
        self.enums.push(declared);
    }

    fn message(&self, full_name: &str, message: &DescriptorProto) -> MessageType {
        let oneofs = message.oneof_decl.iter().map(|oneof| format!("{}.{}", &full_name[1..], oneof.name()));
        let mut made = MessageType { oneofs: oneofs.collect(), ..MessageType::default() };
        for field in &message.field {
            let Some(kind) = self.kind(field) else { continue };
            let index = made.fields.len();
            made.by_number.insert(field.number() as u32, index);
            made.by_name.entry(field.name().to_owned()).or_insert(index);
            made.by_name.insert(field.json_name().to_owned(), index);
            made.fields.push(Field {
                name: field.name().to_owned(),
                json_name: field.json_name().to_owned(),
                number: field.number() as u32,
                kind,
                repeated: field.label() == Label::Repeated,
                oneof: field.oneof_index.map(|index| index as usize),
            });
        }
        made
    }

    /// `None` for a kind that no message of the API has (a test sees to that).
    fn kind(&self, field: &prost_types::FieldDescriptorProto) -> Option<Kind> {
        Some(match field.r#type() {
            Type::Bool => Kind::Bool,
            Type::Int32 => Kind::Int32,
            Type::Int64 => Kind::Int64,
            Type::Uint32 => Kind::Uint32,
            Type::Uint64 => Kind::Uint64,
            Type::String => Kind::String,
            Type::Bytes => Kind::Bytes,
            Type::Enum => Kind::Enum(*self.enum_numbers.get(field.type_name())?),
            Type::Message => Kind::Message(MessageId(*self.message_numbers.get(field.type_name())?)),
            _ => return None,
        })
    }
}

impl MessageType {
    /// The index of a field by its JSON name or its original name.
    pub(crate) fn field_named(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The index of a field by its number.
    pub(crate) fn field_numbered(&self, number: u32) -> Option<usize> {
        self.by_number.get(&number).copied()
    }
}

impl EnumType {
    fn new(declared: &EnumDescriptorProto) -> Self {
        Self {
            values: declared.value.iter().map(|value| (value.number(), value.name().to_owned())).collect(),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Option<i32> {
        self.values.iter().find(|(_, known)| known == name).map(|(number, _)| *number)
    }

    pub(crate) fn name(&self, number: i32) -> Option<&str> {
        self.values.iter().find(|(known, _)| *known == number).map(|(_, name)| name.as_str())
    }
}

impl Kind {
    /// The name in texts.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Enum(_) => "enum",
            Self::Message(_) => "message",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_is_left_out() {
        let set = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
        let mut checked = 0;
        for file in set.file.iter().filter(|file| file.syntax() == "proto3") {
            for message in &file.message_type {
                let id = SCHEMA.message(&format!("{}.{}", file.package(), message.name())).unwrap();
                assert_eq!(SCHEMA.get(id).fields.len(), message.field.len(), "{}", message.name());
                checked += 1;
            }
        }
        assert!(checked > 100, "{checked} messages");
    }

    #[test]
    fn fields_are_found_by_both_names() {
        let range = SCHEMA.get(SCHEMA.message("etcdserverpb.RangeRequest").unwrap());
        assert_eq!(range.field_named("range_end"), Some(1));
        assert_eq!(range.field_named("rangeEnd"), Some(1));
        assert_eq!(range.field_named("RangeEnd"), None);
        assert_eq!(range.field_numbered(2), Some(1));
        let grant = SCHEMA.get(SCHEMA.message("etcdserverpb.LeaseGrantRequest").unwrap());
        assert_eq!((grant.field_named("TTL"), grant.field_named("ttl")), (Some(0), None));
    }
}
