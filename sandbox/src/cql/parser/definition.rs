//! CREATE, ALTER and DROP of tables, types, indexes and views.

use super::{Parser, Result};
use crate::cql::ast::definition::{
    AlterTable, AlterType, ColumnDefinition, CreateIndex, CreateTable, CreateType, CreateView, Direction,
    DropObject, PrimaryKey, TableChange, TypeChange,
};
use crate::cql::ast::term::TypeExpr;
use crate::cql::ast::{QualifiedName, Statement};
use crate::cql::lexer::TokenKind;

impl Parser<'_> {
    pub(super) fn create(&mut self) -> Result<Statement> {
        self.expect_word("create")?;
        if self.skip_keyspace_word() {
            self.create_keyspace()
        } else if self.skip_table_word() {
            self.create_table()
        } else if self.skip_word("type") {
            self.create_type()
        } else if self.skip_words(&["custom", "index"]) {
            self.create_index(true)
        } else if self.skip_word("index") {
            self.create_index(false)
        } else if self.skip_words(&["materialized", "view"]) {
            self.create_view()
        } else if self.skip_word("role") {
            self.create_role()
        } else if self.skip_word("user") {
            self.create_user()
        } else {
            Err(self.unexpected())
        }
    }

    pub(super) fn alter(&mut self) -> Result<Statement> {
        self.expect_word("alter")?;
        if self.skip_keyspace_word() {
            self.alter_keyspace()
        } else if self.skip_table_word() {
            self.alter_table()
        } else if self.skip_word("type") {
            self.alter_type()
        } else if self.skip_word("role") {
            self.alter_role()
        } else if self.skip_word("user") {
            self.alter_user()
        } else {
            Err(self.unexpected())
        }
    }

    pub(super) fn drop(&mut self) -> Result<Statement> {
        self.expect_word("drop")?;
        if self.skip_keyspace_word() {
            self.drop_keyspace()
        } else if self.skip_table_word() {
            self.drop_object().map(Statement::DropTable)
        } else if self.skip_word("type") {
            self.drop_object().map(Statement::DropType)
        } else if self.skip_word("index") {
            self.drop_object().map(Statement::DropIndex)
        } else if self.skip_words(&["materialized", "view"]) {
            self.drop_object().map(Statement::DropView)
        } else if self.skip_word("role") || self.skip_word("user") {
            self.drop_role()
        } else {
            Err(self.unexpected())
        }
    }

    pub(super) fn skip_keyspace_word(&mut self) -> bool {
        self.skip_word("keyspace") || self.skip_word("schema")
    }

    pub(super) fn skip_table_word(&mut self) -> bool {
        self.skip_word("table") || self.skip_word("columnfamily")
    }

    fn drop_object(&mut self) -> Result<DropObject> {
        let if_exists = self.if_exists();
        Ok(DropObject {
            name: self.qualified_name()?,
            if_exists,
        })
    }

    fn create_table(&mut self) -> Result<Statement> {
        let if_not_exists = self.if_not_exists();
        let mut table = CreateTable {
            name: self.qualified_name()?,
            if_not_exists,
            columns: Vec::new(),
            primary_keys: Vec::new(),
            clustering_order: Vec::new(),
            compact_storage: false,
            properties: Vec::new(),
        };
        self.expect_symbol("(")?;
        self.list_of(|parser| parser.table_item(&mut table))?;
        self.expect_symbol(")")?;
        if self.skip_word("with") {
            self.table_property(&mut table)?;
            while self.skip_word("and") {
                self.table_property(&mut table)?;
            }
        }
        Ok(Statement::CreateTable(Box::new(table)))
    }

    /// A column or PRIMARY KEY (...).
    fn table_item(&mut self, table: &mut CreateTable) -> Result<()> {
        if self.skip_words(&["primary", "key"]) {
            let key = self.primary_key()?;
            table.primary_keys.push(key);
            return Ok(());
        }
        let column = self.column_definition()?;
        if self.skip_words(&["primary", "key"]) {
            table.primary_keys.push(PrimaryKey {
                partition: vec![column.name.clone()],
                clustering: Vec::new(),
            });
        }
        table.columns.push(column);
        Ok(())
    }

    fn primary_key(&mut self) -> Result<PrimaryKey> {
        self.expect_symbol("(")?;
        let partition = if self.is_symbol("(") {
            self.names_in_parentheses()?
        } else {
            vec![self.name()?]
        };
        let clustering = if self.skip_symbol(",") {
            self.list_of(Self::name)?
        } else {
            Vec::new()
        };
        self.expect_symbol(")")?;
        Ok(PrimaryKey {
            partition,
            clustering,
        })
    }

    fn column_definition(&mut self) -> Result<ColumnDefinition> {
        Ok(ColumnDefinition {
            name: self.name()?,
            ty: self.type_expr()?,
            is_static: self.skip_word("static"),
        })
    }

    fn table_property(&mut self, table: &mut CreateTable) -> Result<()> {
        if self.skip_words(&["compact", "storage"]) {
            table.compact_storage = true;
        } else if self.skip_words(&["clustering", "order", "by"]) {
            self.expect_symbol("(")?;
            let order = self.list_of(|parser| {
                let column = parser.name()?;
                if parser.skip_word("desc") {
                    return Ok((column, Direction::Descending));
                }
                parser.expect_word("asc")?;
                Ok((column, Direction::Ascending))
            })?;
            table.clustering_order.extend(order);
            self.expect_symbol(")")?;
        } else {
            let property = self.property()?;
            table.properties.push(property);
        }
        Ok(())
    }

    fn alter_table(&mut self) -> Result<Statement> {
        let if_exists = self.if_exists();
        let name = self.qualified_name()?;
        let change = if self.skip_word("add") {
            let if_not_exists = self.if_not_exists();
            TableChange::Add {
                columns: self.one_or_in_parentheses(Self::column_definition)?,
                if_not_exists,
            }
        } else if self.skip_word("drop") {
            let if_exists = self.if_exists();
            TableChange::Drop {
                columns: self.one_or_in_parentheses(Self::name)?,
                if_exists,
                timestamp: self.using(&["timestamp"])?.timestamp,
            }
        } else if self.skip_word("rename") {
            self.if_exists();
            TableChange::Rename(self.renames()?)
        } else if self.skip_word("alter") {
            let column = self.name()?;
            self.expect_word("type")?;
            TableChange::AlterType {
                column,
                ty: self.type_expr()?,
            }
        } else {
            self.expect_word("with")?;
            TableChange::With(self.properties()?)
        };
        Ok(Statement::AlterTable(AlterTable {
            name,
            if_exists,
            change,
        }))
    }

    /// `x`, `x, y` or `(x, y)`.
    fn one_or_in_parentheses<T>(&mut self, item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let parentheses = self.skip_symbol("(");
        let items = self.list_of(item)?;
        if parentheses {
            self.expect_symbol(")")?;
        }
        Ok(items)
    }

    fn renames(&mut self) -> Result<Vec<(String, String)>> {
        let mut renames = Vec::new();
        loop {
            let from = self.name()?;
            self.expect_word("to")?;
            renames.push((from, self.name()?));
            if !self.skip_word("and") {
                return Ok(renames);
            }
        }
    }

    fn create_type(&mut self) -> Result<Statement> {
        let if_not_exists = self.if_not_exists();
        let name = self.qualified_name()?;
        self.expect_symbol("(")?;
        let fields = self.list_of(Self::type_field)?;
        self.expect_symbol(")")?;
        Ok(Statement::CreateType(CreateType {
            name,
            if_not_exists,
            fields,
        }))
    }

    fn type_field(&mut self) -> Result<(String, TypeExpr)> {
        Ok((self.name()?, self.type_expr()?))
    }

    fn alter_type(&mut self) -> Result<Statement> {
        let if_exists = self.if_exists();
        let name = self.qualified_name()?;
        let change = if self.skip_word("add") {
            self.if_not_exists();
            TypeChange::Add(self.one_or_in_parentheses(Self::type_field)?)
        } else if self.skip_word("rename") {
            self.if_exists();
            TypeChange::Rename(self.renames()?)
        } else {
            self.expect_word("alter")?;
            let field = self.name()?;
            self.expect_word("type")?;
            TypeChange::AlterField {
                field,
                ty: self.type_expr()?,
            }
        };
        Ok(Statement::AlterType(AlterType {
            name,
            if_exists,
            change,
        }))
    }

    fn create_index(&mut self, custom: bool) -> Result<Statement> {
        let if_not_exists = self.if_not_exists();
        let name = if self.is_word("on") {
            None
        } else {
            Some(self.name()?)
        };
        self.expect_word("on")?;
        let table = self.qualified_name()?;
        self.expect_symbol("(")?;
        let targets = self.list_of(Self::index_target)?;
        self.expect_symbol(")")?;
        let using = if custom {
            self.expect_word("using")?;
            true
        } else {
            self.skip_word("using")
        };
        let class = if using { Some(self.string()?) } else { None };
        if self.skip_word("with") {
            self.properties()?;
        }
        Ok(Statement::CreateIndex(CreateIndex {
            name,
            if_not_exists,
            table,
            targets,
            class,
        }))
    }

    /// `c`, `values(c)`, or `(a, b)`: the partition key of a local index.
    fn index_target(&mut self) -> Result<String> {
        if self.is_symbol("(") {
            return Ok(format!("({})", self.names_in_parentheses()?.join(", ")));
        }
        let token = self.peek();
        if token.kind != TokenKind::Word || !self.is_symbol_at(1, "(") {
            return self.name();
        }
        let part = self.text_of(token).to_ascii_lowercase();
        if !["values", "keys", "entries", "full"].contains(&part.as_str()) {
            return Err(self.unexpected());
        }
        self.at += 2;
        let column = self.name()?;
        self.expect_symbol(")")?;
        Ok(format!("{part}({column})"))
    }

    fn create_view(&mut self) -> Result<Statement> {
        let if_not_exists = self.if_not_exists();
        let name = self.qualified_name()?;
        self.expect_word("as")?;
        Ok(Statement::CreateView(CreateView {
            name,
            if_not_exists,
            base: self.base_of_view()?,
        }))
    }

    /// The view's base table; what else its definition says is read over, up to a semicolon.
    fn base_of_view(&mut self) -> Result<QualifiedName> {
        self.expect_word("select")?;
        while !self.is_word("from") {
            if self.peek().kind == TokenKind::End {
                return Err(self.unexpected());
            }
            self.advance();
        }
        self.expect_word("from")?;
        let base = self.qualified_name()?;
        while self.peek().kind != TokenKind::End && !self.is_symbol(";") {
            self.advance();
        }
        Ok(base)
    }
}
