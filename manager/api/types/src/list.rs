//! One page of a list.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ArrayBuilder, ObjectBuilder, Ref, RefOr, Schema, Type, schema::SchemaType},
};

/// One page. The list ends where `nextCursor` is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct List<T> {
    /// The objects.
    pub items: Vec<T>,
    /// Send it as `cursor` with the same filter to read the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// `TenantList` has items of the schema `Tenant`. A derived schema would have a copy of it in place of the reference, and
/// clients would get two types for one object. Routes name the aliases (`TenantList`), not `List<Tenant>`.
impl<T: ToSchema> ToSchema for List<T> {
    fn name() -> Cow<'static, str> {
        format!("{}List", T::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into(), T::schema()));
        T::schemas(schemas);
    }
}

impl<T: ToSchema> PartialSchema for List<T> {
    fn schema() -> RefOr<Schema> {
        let items = ArrayBuilder::new().items(Ref::from_schema_name(T::name())).description(Some("The objects."));
        let cursor = ObjectBuilder::new()
            .schema_type(SchemaType::Type(Type::String))
            .description(Some("Send it as `cursor` with the same filter to read the next page."));
        let list = ObjectBuilder::new()
            .description(Some("One page. The list ends where `nextCursor` is absent."))
            .property("items", items)
            .property("nextCursor", cursor)
            .required("items");
        Schema::from(list).into()
    }
}
