//! CREATE, ALTER, DROP, GRANT, REVOKE and LIST.

use super::permissions::qualified;
use super::{MAX_ROLES, Role, Roles, listing};
use crate::cql::ast::Statement;
use crate::cql::ast::access::{
    AlterRole, CreateRole, DropRole, GrantPermission, GrantRole, Permission, Resource, RevokePermission,
    RevokeRole, RoleOptions,
};
use crate::error::{CqlError, ErrorKind};
use crate::query::api::QueryResult;
use crate::query::virtual_table::VirtualContext;

impl Roles {
    pub(super) fn change(
        &self,
        context: &VirtualContext<'_>,
        statement: &Statement,
    ) -> Result<QueryResult, CqlError> {
        let user = context.session.user.as_deref().unwrap_or_default();
        let keyspace = context.session.keyspace.as_deref();
        match statement {
            Statement::AlterRole(alter) => self.alter(user, alter)?,
            Statement::ListRoles(list) => return Ok(listing::roles(&self.roles.read(), list)),
            Statement::ListPermissions(list) => {
                return Ok(listing::permissions(&self.roles.read(), list, keyspace));
            }
            _ if !self.is_superuser(user) => {
                return Err(CqlError::new(
                    ErrorKind::Unauthorized,
                    format!(
                        "User {user} is not a superuser; only superusers may change roles and permissions here"
                    ),
                ));
            }
            Statement::CreateRole(create) => self.create(create)?,
            Statement::DropRole(drop) => self.drop_role(user, drop)?,
            Statement::GrantRole(GrantRole { role, grantee }) => self.grant_role(role, grantee)?,
            Statement::RevokeRole(RevokeRole { role, grantee }) => {
                self.with_role(grantee, |found| found.member_of.remove(role))?;
            }
            Statement::GrantPermission(grant) => self.grant(grant, keyspace)?,
            Statement::RevokePermission(revoke) => self.revoke(revoke, keyspace)?,
            _ => return Err(CqlError::invalid("This statement is not about roles")),
        }
        Ok(QueryResult::Void)
    }

    fn create(&self, create: &CreateRole) -> Result<(), CqlError> {
        let mut roles = self.roles.write();
        if roles.contains_key(&create.name) {
            return match create.if_not_exists {
                true => Ok(()),
                false => Err(CqlError::invalid(format!("Role {} already exists.", create.name))),
            };
        }
        if roles.len() >= MAX_ROLES {
            return Err(CqlError::invalid(format!("There are {MAX_ROLES} roles already")));
        }
        let mut role = Role::default();
        set_options(&mut role, &create.options)?;
        roles.insert(create.name.clone(), role);
        Ok(())
    }

    /// Users may change their own password; everything else takes a superuser.
    fn alter(&self, user: &str, alter: &AlterRole) -> Result<(), CqlError> {
        let options = &alter.options;
        let own_password = alter.name == user && options.superuser.is_none() && options.login.is_none();
        if !own_password && !self.is_superuser(user) {
            return Err(CqlError::new(
                ErrorKind::Unauthorized,
                format!("User {user} may only change the own password"),
            ));
        }
        let mut roles = self.roles.write();
        match roles.get_mut(&alter.name) {
            Some(role) => set_options(role, options),
            None if alter.if_exists => Ok(()),
            None => Err(unknown(&alter.name)),
        }
    }

    fn drop_role(&self, user: &str, drop: &DropRole) -> Result<(), CqlError> {
        if drop.name == user {
            return Err(CqlError::invalid("Cannot DROP primary role for current login"));
        }
        let mut roles = self.roles.write();
        if roles.remove(&drop.name).is_none() && !drop.if_exists {
            return Err(unknown(&drop.name));
        }
        for role in roles.values_mut() {
            role.member_of.remove(&drop.name);
        }
        Ok(())
    }

    fn grant_role(&self, role: &str, grantee: &str) -> Result<(), CqlError> {
        if !self.roles.read().contains_key(role) {
            return Err(unknown(role));
        }
        self.with_role(grantee, |found| found.member_of.insert(role.to_owned()))?;
        Ok(())
    }

    fn grant(&self, grant: &GrantPermission, keyspace: Option<&str>) -> Result<(), CqlError> {
        let resource = resolved(&grant.resource, keyspace);
        self.with_role(&grant.role, |role| {
            for permission in listing::or_all(&grant.permissions) {
                let entry = (resource.clone(), permission);
                if !role.grants.contains(&entry) {
                    role.grants.push(entry);
                }
            }
        })
    }

    fn revoke(&self, revoke: &RevokePermission, keyspace: Option<&str>) -> Result<(), CqlError> {
        let resource = resolved(&revoke.resource, keyspace);
        let permissions: Vec<Permission> = listing::or_all(&revoke.permissions);
        self.with_role(&revoke.role, |role| {
            role.grants
                .retain(|(on, permission)| *on != resource || !permissions.contains(permission));
        })
    }

    fn with_role<T>(&self, name: &str, change: impl FnOnce(&mut Role) -> T) -> Result<T, CqlError> {
        let mut roles = self.roles.write();
        roles.get_mut(name).map(change).ok_or_else(|| unknown(name))
    }
}

fn set_options(role: &mut Role, options: &RoleOptions) -> Result<(), CqlError> {
    if options.hashed_password.is_some() {
        return Err(CqlError::invalid("HASHED PASSWORD is not supported by this node"));
    }
    if let Some(password) = &options.password {
        role.password = Some(password.clone());
    }
    role.superuser = options.superuser.unwrap_or(role.superuser);
    role.login = options.login.unwrap_or(role.login);
    Ok(())
}

pub(super) fn resolved(resource: &Resource, keyspace: Option<&str>) -> Resource {
    match resource {
        Resource::Table(table) => Resource::Table(qualified(table, keyspace)),
        other => other.clone(),
    }
}

fn unknown(role: &str) -> CqlError {
    CqlError::invalid(format!("Role {role} doesn't exist."))
}
