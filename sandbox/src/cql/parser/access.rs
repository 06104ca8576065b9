//! Roles and permissions.

use super::{Parser, Result};
use crate::cql::ast::Statement;
use crate::cql::ast::access::{
    AlterRole, CreateRole, DropRole, GrantPermission, GrantRole, ListPermissions, ListRoles, Permission,
    Resource, RevokePermission, RevokeRole, RoleOptions,
};
use crate::cql::lexer::TokenKind;

const PERMISSIONS: [(&str, Permission); 8] = [
    ("create", Permission::Create),
    ("alter", Permission::Alter),
    ("drop", Permission::Drop),
    ("select", Permission::Select),
    ("modify", Permission::Modify),
    ("authorize", Permission::Authorize),
    ("describe", Permission::Describe),
    ("execute", Permission::Execute),
];

impl Parser<'_> {
    /// Behind CREATE ROLE.
    pub(super) fn create_role(&mut self) -> Result<Statement> {
        let if_not_exists = self.if_not_exists();
        let name = self.role_name()?;
        Ok(Statement::CreateRole(CreateRole {
            name,
            if_not_exists,
            options: self.role_options()?,
        }))
    }

    /// Behind CREATE USER: a role that may log in.
    pub(super) fn create_user(&mut self) -> Result<Statement> {
        let if_not_exists = self.if_not_exists();
        let name = self.role_name()?;
        let options = RoleOptions {
            login: Some(true),
            ..self.user_options()?
        };
        let superuser = Some(options.superuser.unwrap_or(false));
        Ok(Statement::CreateRole(CreateRole {
            name,
            if_not_exists,
            options: RoleOptions { superuser, ..options },
        }))
    }

    /// Behind ALTER ROLE.
    pub(super) fn alter_role(&mut self) -> Result<Statement> {
        let if_exists = self.if_exists();
        let name = self.role_name()?;
        Ok(Statement::AlterRole(AlterRole {
            name,
            if_exists,
            options: self.role_options()?,
        }))
    }

    /// Behind ALTER USER.
    pub(super) fn alter_user(&mut self) -> Result<Statement> {
        let if_exists = self.if_exists();
        let name = self.role_name()?;
        Ok(Statement::AlterRole(AlterRole {
            name,
            if_exists,
            options: self.user_options()?,
        }))
    }

    /// Behind DROP ROLE and DROP USER.
    pub(super) fn drop_role(&mut self) -> Result<Statement> {
        let if_exists = self.if_exists();
        Ok(Statement::DropRole(DropRole {
            name: self.role_name()?,
            if_exists,
        }))
    }

    pub(super) fn grant(&mut self) -> Result<Statement> {
        self.expect_word("grant")?;
        if let Some((permissions, resource)) = self.permissions_on()? {
            self.expect_word("to")?;
            return Ok(Statement::GrantPermission(GrantPermission {
                permissions,
                resource,
                role: self.role_name()?,
            }));
        }
        let role = self.role_name()?;
        self.expect_word("to")?;
        Ok(Statement::GrantRole(GrantRole {
            role,
            grantee: self.role_name()?,
        }))
    }

    pub(super) fn revoke(&mut self) -> Result<Statement> {
        self.expect_word("revoke")?;
        if let Some((permissions, resource)) = self.permissions_on()? {
            self.expect_word("from")?;
            return Ok(Statement::RevokePermission(RevokePermission {
                permissions,
                resource,
                role: self.role_name()?,
            }));
        }
        let role = self.role_name()?;
        self.expect_word("from")?;
        Ok(Statement::RevokeRole(RevokeRole {
            role,
            grantee: self.role_name()?,
        }))
    }

    pub(super) fn list(&mut self) -> Result<Statement> {
        self.expect_word("list")?;
        if self.skip_word("roles") {
            let of = if self.skip_word("of") {
                Some(self.role_name()?)
            } else {
                None
            };
            return Ok(Statement::ListRoles(ListRoles {
                of,
                no_recursive: self.skip_word("norecursive"),
                users: false,
            }));
        }
        if self.skip_word("users") {
            return Ok(Statement::ListRoles(ListRoles {
                of: None,
                no_recursive: false,
                users: true,
            }));
        }
        let permissions = self.permissions()?;
        let resource = if self.skip_word("on") {
            Some(self.resource()?)
        } else {
            None
        };
        let of = if self.skip_word("of") {
            Some(self.role_name()?)
        } else {
            None
        };
        Ok(Statement::ListPermissions(ListPermissions {
            permissions,
            resource,
            of,
            no_recursive: self.skip_word("norecursive"),
        }))
    }

    /// `permissions ON resource`, or None if a role's name stands here.
    fn permissions_on(&mut self) -> Result<Option<(Vec<Permission>, Resource)>> {
        if self.is_word_at(1, "to") || self.is_word_at(1, "from") {
            return Ok(None);
        }
        let permissions = self.permissions()?;
        self.expect_word("on")?;
        Ok(Some((permissions, self.resource()?)))
    }

    fn permissions(&mut self) -> Result<Vec<Permission>> {
        if self.skip_word("all") {
            self.skip_word("permissions");
            return Ok(PERMISSIONS.iter().map(|(_, permission)| *permission).collect());
        }
        self.list_of(|parser| {
            let Some((_, permission)) = PERMISSIONS.iter().find(|(word, _)| parser.is_word(word)) else {
                return Err(parser.unexpected());
            };
            parser.advance();
            parser.skip_word("permission");
            Ok(*permission)
        })
    }

    fn resource(&mut self) -> Result<Resource> {
        if self.skip_words(&["all", "keyspaces"]) {
            return Ok(Resource::AllKeyspaces);
        }
        if self.skip_words(&["all", "roles"]) {
            return Ok(Resource::AllRoles);
        }
        if self.skip_words(&["all", "functions"]) {
            return Ok(Resource::AllFunctions);
        }
        if self.skip_keyspace_word() {
            return self.name().map(Resource::Keyspace);
        }
        if self.is_word("role") && !self.is_symbol_at(1, ".") {
            self.advance();
            return self.role_name().map(Resource::Role);
        }
        self.skip_table_word();
        self.qualified_name().map(Resource::Table)
    }

    /// A name, or a string as users were written once.
    fn role_name(&mut self) -> Result<String> {
        match self.peek().kind {
            TokenKind::String | TokenKind::DollarString => self.string(),
            _ => self.name(),
        }
    }

    /// `WITH PASSWORD = 'x' AND LOGIN = true ...`.
    fn role_options(&mut self) -> Result<RoleOptions> {
        let mut options = RoleOptions::default();
        if !self.skip_word("with") {
            return Ok(options);
        }
        loop {
            if self.skip_words(&["hashed", "password"]) || self.skip_words(&["salted", "hash"]) {
                self.expect_symbol("=")?;
                options.hashed_password = Some(self.string()?);
            } else if self.skip_word("password") {
                self.expect_symbol("=")?;
                options.password = Some(self.string()?);
            } else if self.skip_word("superuser") {
                options.superuser = Some(self.boolean_option()?);
            } else if self.skip_word("login") {
                options.login = Some(self.boolean_option()?);
            } else {
                return Err(self.unexpected());
            }
            if !self.skip_word("and") {
                return Ok(options);
            }
        }
    }

    fn boolean_option(&mut self) -> Result<bool> {
        self.expect_symbol("=")?;
        if self.skip_word("true") {
            return Ok(true);
        }
        self.expect_word("false")?;
        Ok(false)
    }

    /// `WITH PASSWORD 'x' [SUPERUSER | NOSUPERUSER]`.
    fn user_options(&mut self) -> Result<RoleOptions> {
        let mut options = RoleOptions::default();
        if self.skip_word("with") {
            let hashed = self.skip_word("hashed");
            self.expect_word("password")?;
            let password = Some(self.string()?);
            if hashed {
                options.hashed_password = password;
            } else {
                options.password = password;
            }
        }
        if self.skip_word("superuser") {
            options.superuser = Some(true);
        } else if self.skip_word("nosuperuser") {
            options.superuser = Some(false);
        }
        Ok(options)
    }
}
