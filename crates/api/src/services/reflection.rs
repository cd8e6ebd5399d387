//! gRPC's reflection service, in both its names: tools such as grpcurl ask it what there is to call.
//!
//! Files are ours: they have upstream's packages, messages and methods, and fewer imports. An answer
//! with a file brings the files it imports, those that this stream has not had yet.
//!
//! **Source**: gRPC's `reflection.proto`; errors as `google.golang.org/grpc/reflection` has them. No
//! release of etcd serves it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use proto::reflection as pb;
use proto::reflection::server_reflection_request::MessageRequest;
use proto::reflection::server_reflection_response::MessageResponse;

use crate::error::Error;
use crate::grpc::{CallContext, Code, Requests, Responses};
use crate::member::Member;

/// `ServerReflection.ServerReflectionInfo`.
pub async fn info<M: Member>(
    _: &M,
    _: &CallContext,
    mut requests: Requests<pb::ServerReflectionRequest>,
    responses: &mut Responses,
) -> Result<(), Error> {
    let mut sent = BTreeSet::new();
    while let Some(request) = requests.next().await {
        let request = request?;
        let message_response = request.message_request.as_ref().map(|asked| answer(asked, &mut sent));
        let valid_host = request.host.clone();
        let response =
            pb::ServerReflectionResponse { valid_host, original_request: Some(request), message_response };
        responses.send(&response).await?;
    }
    Ok(())
}

fn answer(asked: &MessageRequest, sent: &mut BTreeSet<usize>) -> MessageResponse {
    let files = &*FILES;
    let found = match asked {
        MessageRequest::ListServices(_) => {
            let service = files.services.iter().map(|name| pb::ServiceResponse { name: name.clone() });
            return MessageResponse::ListServicesResponse(pb::ListServiceResponse {
                service: service.collect(),
            });
        }
        MessageRequest::FileByFilename(name) => files.by_name.get(name.as_str()).ok_or(name),
        MessageRequest::FileContainingSymbol(name) => {
            files.by_symbol.get(name.trim_start_matches('.')).ok_or(name)
        }
        // There are no extensions.
        MessageRequest::FileContainingExtension(wanted) => Err(&wanted.containing_type),
        MessageRequest::AllExtensionNumbersOfType(name) => match files.by_symbol.contains_key(name) {
            true => {
                let none =
                    pb::ExtensionNumberResponse { base_type_name: name.clone(), extension_number: vec![] };
                return MessageResponse::AllExtensionNumbersResponse(none);
            }
            false => Err(name),
        },
    };
    match found {
        Ok(number) => {
            let mut wanted = BTreeSet::new();
            files.add_with_imports(*number, &mut wanted);
            // The one that was asked for comes first, had or not.
            let others = wanted.into_iter().filter(|other| other != number && !sent.contains(other));
            let numbers: Vec<_> = [*number].into_iter().chain(others).collect();
            sent.extend(&numbers);
            let file_descriptor_proto =
                numbers.iter().map(|number| files.all[*number].bytes.clone()).collect();
            MessageResponse::FileDescriptorResponse(pb::FileDescriptorResponse { file_descriptor_proto })
        }
        Err(name) => MessageResponse::ErrorResponse(pb::ErrorResponse {
            error_code: Code::NotFound as i32,
            error_message: format!("proto: not found: {name:?}"),
        }),
    }
}

struct File {
    bytes: Bytes,
    imports: Vec<usize>,
}

/// The schemas of what is served, by everything they can be asked for.
struct Files {
    all: Vec<File>,
    by_name: BTreeMap<String, usize>,
    by_symbol: HashMap<String, usize>,
    services: BTreeSet<String>,
}

static FILES: LazyLock<Files> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(proto::DESCRIPTORS).expect("made by our own build");
    let mut files = Files {
        all: Vec::new(),
        by_name: BTreeMap::new(),
        by_symbol: HashMap::new(),
        services: BTreeSet::new(),
    };
    // Imported files come before those that import them.
    set.file.iter().for_each(|file| files.add(file));
    files
});

impl Files {
    fn add(&mut self, file: &FileDescriptorProto) {
        let number = self.all.len();
        let imports = file.dependency.iter().filter_map(|name| self.by_name.get(name).copied()).collect();
        self.all.push(File { bytes: file.encode_to_vec().into(), imports });
        self.by_name.insert(file.name().to_owned(), number);
        let package = file.package();
        let mut add = |name: String| {
            self.by_symbol.insert(name, number);
        };
        for message in &file.message_type {
            add_message(package, message, &mut add);
        }
        for declared in &file.enum_type {
            add(format!("{package}.{}", declared.name()));
        }
        for service in &file.service {
            let name = format!("{package}.{}", service.name());
            service.method.iter().for_each(|method| add(format!("{name}.{}", method.name())));
            add(name.clone());
            self.services.insert(name);
        }
    }

    fn add_with_imports(&self, number: usize, into: &mut BTreeSet<usize>) {
        if into.insert(number) {
            self.all[number].imports.iter().for_each(|import| self.add_with_imports(*import, into));
        }
    }
}

fn add_message(prefix: &str, message: &DescriptorProto, add: &mut impl FnMut(String)) {
    let name = format!("{prefix}.{}", message.name());
    message.nested_type.iter().for_each(|nested| add_message(&name, nested, add));
    message.enum_type.iter().for_each(|declared| add(format!("{name}.{}", declared.name())));
    message.field.iter().for_each(|field| add(format!("{name}.{}", field.name())));
    add(name);
}
