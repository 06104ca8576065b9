//! CREATE, ALTER and DROP KEYSPACE.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{DdlContext, Outcome, changed, check_name, missing_keyspace, refuse_system};
use crate::cql::ast::definition::{AlterKeyspace, CreateKeyspace, Properties, PropertyValue};
use crate::error::{CqlError, ErrorKind};
use crate::schema::{Catalog, KeyspaceSchema};

const LOCATORS: &str = "org.apache.cassandra.locator.";
const STRATEGIES: [&str; 4] = [
    "SimpleStrategy",
    "NetworkTopologyStrategy",
    "LocalStrategy",
    "EverywhereStrategy",
];

pub(super) fn create(
    context: &DdlContext<'_>,
    catalog: &mut Catalog,
    create: &CreateKeyspace,
) -> Result<Outcome, CqlError> {
    let name = &create.name;
    check_name("Keyspace", name)?;
    refuse_system(name)?;
    if catalog.keyspace(name).is_some() {
        if create.if_not_exists {
            return Ok(Outcome::Unchanged);
        }
        let kind = ErrorKind::AlreadyExists {
            keyspace: name.clone(),
            table: String::new(),
        };
        return Err(CqlError::new(
            kind,
            format!("Cannot add existing keyspace \"{name}\""),
        ));
    }
    let given = KeyspaceProperties::read(&create.properties)?;
    let replication = given
        .replication
        .ok_or_else(|| CqlError::config("Missing mandatory replication strategy class"))?;
    let replication = replication_options(context, replication)?;
    let networked = replication["class"].ends_with("NetworkTopologyStrategy");
    let initial_tablets = match given.tablets {
        Some((true, _)) if !networked => {
            return Err(CqlError::config(
                "Tablets are only supported with NetworkTopologyStrategy",
            ));
        }
        Some((enabled, initial)) => enabled.then_some(initial),
        None => (networked && context.tablets_by_default).then_some(0),
    };
    let keyspace = KeyspaceSchema {
        name: name.clone(),
        replication,
        durable_writes: given.durable_writes.unwrap_or(true),
        initial_tablets,
        tables: BTreeMap::new(),
        types: BTreeMap::new(),
    };
    catalog.keyspaces.insert(name.clone(), Arc::new(keyspace));
    Ok(changed("CREATED", "KEYSPACE", name, ""))
}

pub(super) fn alter(
    context: &DdlContext<'_>,
    catalog: &mut Catalog,
    alter: &AlterKeyspace,
) -> Result<Outcome, CqlError> {
    refuse_system(&alter.name)?;
    let Some(keyspace) = catalog.keyspaces.get_mut(&alter.name) else {
        return if alter.if_exists {
            Ok(Outcome::Unchanged)
        } else {
            Err(missing_keyspace(&alter.name))
        };
    };
    let given = KeyspaceProperties::read(&alter.properties)?;
    let keyspace = Arc::make_mut(keyspace);
    if let Some(replication) = given.replication {
        keyspace.replication = replication_options(context, replication)?;
    }
    if let Some((enabled, initial)) = given.tablets {
        if enabled != keyspace.initial_tablets.is_some() {
            return Err(CqlError::invalid(
                "Cannot alter replication strategy vnode/tablets flavor",
            ));
        }
        keyspace.initial_tablets = enabled.then_some(initial);
    }
    keyspace.durable_writes = given.durable_writes.unwrap_or(keyspace.durable_writes);
    Ok(changed("UPDATED", "KEYSPACE", &alter.name, ""))
}

pub(super) fn drop(catalog: &mut Catalog, name: &str, if_exists: bool) -> Result<Outcome, CqlError> {
    refuse_system(name)?;
    match catalog.keyspaces.remove(name) {
        Some(_) => Ok(changed("DROPPED", "KEYSPACE", name, "")),
        None if if_exists => Ok(Outcome::Unchanged),
        None => Err(CqlError::config(format!(
            "Cannot drop non existing keyspace '{name}'."
        ))),
    }
}

#[derive(Default)]
struct KeyspaceProperties<'a> {
    replication: Option<&'a [(String, String)]>,
    durable_writes: Option<bool>,
    /// Enabled, initial.
    tablets: Option<(bool, i32)>,
}

impl<'a> KeyspaceProperties<'a> {
    fn read(properties: &'a Properties) -> Result<Self, CqlError> {
        let mut read = Self::default();
        for (name, value) in properties {
            match (name.as_str(), value) {
                ("replication", PropertyValue::Map(options)) => read.replication = Some(options),
                ("durable_writes", PropertyValue::Scalar(text)) => {
                    read.durable_writes = Some(boolean("durable_writes", text)?);
                }
                ("tablets", PropertyValue::Map(options)) => read.tablets = Some(tablets(options)?),
                ("replication" | "durable_writes" | "tablets", _) => {
                    return Err(CqlError::syntax(format!("Invalid value for property '{name}'")));
                }
                ("storage" | "consistency", _) => {}
                _ => return Err(CqlError::syntax(format!("Unknown property '{name}'"))),
            }
        }
        Ok(read)
    }
}

fn tablets(options: &[(String, String)]) -> Result<(bool, i32), CqlError> {
    let (mut enabled, mut initial) = (true, 0);
    for (name, value) in options {
        match name.as_str() {
            "enabled" => enabled = boolean("tablets enabled", value)?,
            "initial" => {
                initial = value.parse::<u16>().map(i32::from).map_err(|_| {
                    CqlError::config(format!(
                        "Initial number of tablets should be numeric; found {value}"
                    ))
                })?;
            }
            _ => return Err(CqlError::config(format!("Unrecognized tablets option {name}"))),
        }
    }
    Ok((enabled, initial))
}

fn replication_options(
    context: &DdlContext<'_>,
    given: &[(String, String)],
) -> Result<BTreeMap<String, String>, CqlError> {
    let class = given
        .iter()
        .find(|(name, _)| name == "class")
        .map(|(_, class)| class);
    let class = class.ok_or_else(|| CqlError::config("Missing mandatory replication strategy class"))?;
    let short = class.strip_prefix(LOCATORS).unwrap_or(class);
    if !STRATEGIES.contains(&short) {
        return Err(CqlError::config(format!(
            "Unable to find replication strategy class '{class}'"
        )));
    }
    let mut options = BTreeMap::from([("class".to_owned(), format!("{LOCATORS}{short}"))]);
    let mut factor = None;
    for (name, value) in given.iter().filter(|(name, _)| name != "class") {
        if value.parse::<u32>().is_err() {
            return Err(CqlError::config(format!(
                "Replication factor must be numeric; found '{value}'"
            )));
        }
        if name == "replication_factor" && short == "NetworkTopologyStrategy" {
            factor = Some(value);
        } else if name != "replication_factor" && short == "SimpleStrategy" {
            return Err(CqlError::config(format!(
                "Unrecognized strategy option {{{name}}} passed to SimpleStrategy"
            )));
        } else {
            options.insert(name.clone(), value.clone());
        }
    }
    if short == "SimpleStrategy" && !options.contains_key("replication_factor") {
        return Err(CqlError::config(
            "SimpleStrategy requires a replication_factor strategy option.",
        ));
    }
    if let Some(factor) = factor {
        options
            .entry(context.datacenter.to_owned())
            .or_insert_with(|| factor.clone());
    }
    Ok(options)
}

fn boolean(what: &str, text: &str) -> Result<bool, CqlError> {
    match text.to_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err(CqlError::syntax(format!(
            "Invalid boolean value {text} for '{what}'"
        ))),
    }
}
