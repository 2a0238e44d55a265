//! Refusals and failures as clients get them.

use std::error::Error;

use godwit_api::error::{ApiError, ErrorKind};

use super::DefinitionError;
use super::phase::{Refusal, Verb};
use crate::spec::ProblemKind;

/// A request that is not legal now.
pub(super) fn refused(refusal: Refusal) -> ApiError {
    let kind = if refusal.is_missing() {
        ErrorKind::NotFound
    } else {
        ErrorKind::Refused
    };
    ApiError::of(kind, &refusal).during(refusal.attempt())
}

/// An attempt that failed.
pub(super) fn failed(verb: Verb, error: &(dyn Error + 'static)) -> ApiError {
    ApiError::of(ErrorKind::Internal, error).during(verb.attempt())
}

/// A description that was refused.
pub(super) fn undefined(verb: Verb, error: &DefinitionError) -> ApiError {
    let kind = match error {
        DefinitionError::Facts(_) => ErrorKind::Internal,
        DefinitionError::Tap(_) => ErrorKind::BadRequest,
        DefinitionError::Spec(spec) => {
            let duplicate = |p: &crate::spec::Problem| p.kind == ProblemKind::Duplicate;
            if spec.problems().iter().all(duplicate) {
                ErrorKind::Conflict
            } else {
                ErrorKind::BadRequest
            }
        }
    };
    ApiError::of(kind, error).during(verb.attempt())
}
