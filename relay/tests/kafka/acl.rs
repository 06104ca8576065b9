//! Allows a user something. rdkafka does not wrap this part of librdkafka.
#![allow(
    unsafe_code,
    reason = "librdkafka's calls for access control, which rdkafka does not wrap"
)]

use std::ffi::CString;

use rdkafka::admin::AdminClient;
use rdkafka::bindings as native;
use rdkafka::bindings::rd_kafka_AclOperation_t as Operation;
use rdkafka::bindings::rd_kafka_ResourcePatternType_t as Pattern;
use rdkafka::bindings::rd_kafka_ResourceType_t as Resource;
use rdkafka::client::DefaultClientContext;

/// Something that a user may do.
pub(crate) struct Rule {
    /// With its type, as in `User:relay`.
    pub(crate) principal: String,
    pub(crate) operation: Operation,
    pub(crate) resource: Resource,
    pub(crate) name: String,
    pub(crate) pattern: Pattern,
}

/// The rules that the arguments of `kafka-acls.sh --add` make.
pub(crate) fn rules(arguments: &[String]) -> Vec<Rule> {
    let mut principal = None;
    let mut operations = Vec::new();
    let mut resource = None;
    let mut pattern = Pattern::RD_KAFKA_RESOURCE_PATTERN_LITERAL;
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("{word} has a value"));
        match word {
            "--add" => {}
            "--allow-principal" => principal = Some(value().to_owned()),
            "--operation" => operations.push(match value() {
                "Describe" => Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE,
                "DescribeConfigs" => Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS,
                "Read" => Operation::RD_KAFKA_ACL_OPERATION_READ,
                "Write" => Operation::RD_KAFKA_ACL_OPERATION_WRITE,
                other => panic!("operation {other}"),
            }),
            "--topic" => resource = Some((Resource::RD_KAFKA_RESOURCE_TOPIC, value().to_owned())),
            "--transactional-id" => {
                resource = Some((Resource::RD_KAFKA_RESOURCE_TRANSACTIONAL_ID, value().to_owned()));
            }
            "--resource-pattern-type" => {
                assert_eq!(value(), "prefixed");
                pattern = Pattern::RD_KAFKA_RESOURCE_PATTERN_PREFIXED;
            }
            other => panic!("argument {other}"),
        }
    }
    let principal = principal.expect("--allow-principal");
    let (resource, name) = resource.expect("--topic or --transactional-id");
    let rule = |operation| Rule {
        principal: principal.clone(),
        operation,
        resource,
        name: name.clone(),
        pattern,
    };
    operations.into_iter().map(rule).collect()
}

/// Returns once the broker has answered; whether it agreed, the test sees by what the user can do.
pub(crate) async fn allow(admin: AdminClient<DefaultClientContext>, rules: Vec<Rule>) {
    let allow_all = move || {
        for rule in rules {
            allow_one(&admin, &rule);
        }
    };
    tokio::task::spawn_blocking(allow_all).await.unwrap();
}

fn allow_one(admin: &AdminClient<DefaultClientContext>, rule: &Rule) {
    let (user, name, host) = (
        CString::new(rule.principal.as_str()).unwrap(),
        CString::new(rule.name.as_str()).unwrap(),
        CString::new("*").unwrap(),
    );
    // SAFETY: the strings and the client outlive the calls; what is made here is destroyed here, once, after its
    // last use; a null error text of length 0 and null options are allowed.
    unsafe {
        let mut binding = native::rd_kafka_AclBinding_new(
            rule.resource,
            name.as_ptr(),
            rule.pattern,
            user.as_ptr(),
            host.as_ptr(),
            rule.operation,
            native::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
            std::ptr::null_mut(),
            0,
        );
        assert!(!binding.is_null());
        let client = admin.inner().native_ptr();
        let answers = native::rd_kafka_queue_new(client);
        native::rd_kafka_CreateAcls(client, &raw mut binding, 1, std::ptr::null(), answers);
        let event = native::rd_kafka_queue_poll(answers, 30_000);
        assert!(!event.is_null(), "the broker answers");
        assert_eq!(
            native::rd_kafka_event_error(event),
            native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        );
        native::rd_kafka_event_destroy(event);
        native::rd_kafka_queue_destroy(answers);
        native::rd_kafka_AclBinding_destroy(binding);
    }
}
