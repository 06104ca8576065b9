//! Roles and permissions.

use crate::cql::ast::QualifiedName;

/// CREATE ROLE; CREATE USER says `login = true`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateRole {
    pub name: String,
    pub if_not_exists: bool,
    pub options: RoleOptions,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AlterRole {
    pub name: String,
    pub if_exists: bool,
    pub options: RoleOptions,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoleOptions {
    pub password: Option<String>,
    pub hashed_password: Option<String>,
    pub superuser: Option<bool>,
    pub login: Option<bool>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DropRole {
    pub name: String,
    pub if_exists: bool,
}

/// `GRANT role TO grantee`.
#[derive(Debug, Clone, PartialEq)]
pub struct GrantRole {
    pub role: String,
    pub grantee: String,
}

/// `REVOKE role FROM grantee`.
#[derive(Debug, Clone, PartialEq)]
pub struct RevokeRole {
    pub role: String,
    pub grantee: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct GrantPermission {
    pub permissions: Vec<Permission>,
    pub resource: Resource,
    pub role: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RevokePermission {
    pub permissions: Vec<Permission>,
    pub resource: Resource,
    pub role: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Permission {
    Create,
    Alter,
    Drop,
    Select,
    Modify,
    Authorize,
    Describe,
    Execute,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    AllKeyspaces,
    Keyspace(String),
    Table(QualifiedName),
    AllRoles,
    Role(String),
    AllFunctions,
}

/// LIST ROLES, LIST USERS.
#[derive(Debug, Clone, PartialEq)]
pub struct ListRoles {
    pub of: Option<String>,
    pub no_recursive: bool,
    /// LIST USERS: other columns, and only roles that may log in.
    pub users: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ListPermissions {
    /// Every one if ALL.
    pub permissions: Vec<Permission>,
    pub resource: Option<Resource>,
    pub of: Option<String>,
    pub no_recursive: bool,
}
