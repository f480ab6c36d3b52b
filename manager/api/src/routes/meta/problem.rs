//! `GET /problems/{slug}`: where the `type` of a problem leads.

use crate::error::ApiError;
use axum::{Json, extract::Path};
use kubenova_api_types::problem::ProblemType;
use kubenova_core::refusal::{Reason, Refusal};

/// Read what a kind of problem means and what to do about it.
#[utoipa::path(get, path = "/problems/{slug}", tag = "meta", operation_id = "getProblem", security(),
    params(("slug" = String, Path, description = "The reason in lower case, with dashes")),
    responses((status = 200, description = "The explanation", body = ProblemType)))]
pub async fn get(Path(slug): Path<String>) -> Result<Json<ProblemType>, ApiError> {
    let reason = Reason::from_slug(&slug)
        .ok_or_else(|| Refusal::new(Reason::RouteNotFound, format!("there is no kind of problem {slug:?}")))?;
    Ok(Json(ProblemType {
        reason: reason.to_string(),
        status: reason.status(),
        title: reason.title().to_owned(),
        meaning: reason.meaning().to_owned(),
        remedy: reason.remedy().to_owned(),
        retryable: reason.is_retryable(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestApi;

    #[tokio::test]
    async fn the_type_of_a_problem_leads_to_its_explanation() {
        let api = TestApi::start().await;
        let anonymous = TestApi::anonymous();
        let problem = api.get("/api/v1/me").send(&anonymous).await.refused(Reason::Unauthenticated);
        let explained = api.get(problem["type"].as_str().unwrap()).send(&anonymous).await.ok(200);
        for field in ["reason", "status", "title", "remedy", "retryable"] {
            assert_eq!(explained[field], problem[field], "{field}");
        }
        api.get("/problems/no-such-kind").send(&anonymous).await.refused(Reason::RouteNotFound);
    }
}
