//! The answer to a hello, believed only when the Manager signed it and it answers this very hello.
//!
//! Whoever can write to the broker could answer in the Manager's place: with a higher epoch or floor the cluster would refuse
//! every command from then on, with another time its usage would be dated wrong.

use kubenova_schema::{
    message::{self, MessageError},
    signature::{AcceptedKeys, PayloadType, SignatureError},
    v1::{Hello, HelloAnswer},
};

/// Why an answer is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Unbelieved {
    /// Not signed by a key we accept.
    #[error("could not verify the signature of the answer")]
    Signature(#[from] SignatureError),
    /// Signed, yet unreadable.
    #[error("could not read the signed answer")]
    Body(#[from] MessageError),
    /// Signed for another hello: an earlier one, or another cluster's.
    #[error("the answer is signed, but for another hello")]
    OtherHello,
}

/// Verifies the exact bytes, then reads them once.
///
/// # Errors
/// When nothing in it may be believed.
pub fn verify(
    body: &[u8],
    header: Option<&str>,
    keys: &AcceptedKeys,
    asked: &Hello,
) -> Result<HelloAnswer, Unbelieved> {
    keys.verify(PayloadType::HelloAnswer, body, header)?;
    let answer: HelloAnswer = message::from_json(body)?;
    let answers_this = (&answer.cluster_id, &answer.boot_id, &answer.nonce)
        == (&asked.cluster_id, &asked.boot_id, &asked.nonce)
        && !answer.nonce.is_empty();
    if answers_this { Ok(answer) } else { Err(Unbelieved::OtherHello) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_schema::signature::SigningKey;

    fn hello() -> Hello {
        Hello { cluster_id: "c1".into(), boot_id: "b".into(), nonce: "n2".into(), ..Hello::default() }
    }

    fn answer() -> HelloAnswer {
        HelloAnswer {
            accepted: true,
            epoch: 9,
            cluster_id: "c1".into(),
            boot_id: "b".into(),
            nonce: "n2".into(),
            ..HelloAnswer::default()
        }
    }

    fn verified(signed: &HelloAnswer, seed: u8, payload_type: PayloadType) -> Result<HelloAnswer, Unbelieved> {
        let key = |seed| SigningKey::from_seed(&[seed; 32]).unwrap();
        let keys = AcceptedKeys::new([(key(3).id().to_owned(), key(3).public_key())]);
        let body = message::to_json(signed);
        verify(&body, Some(&key(seed).sign(payload_type, &body)), &keys, &hello())
    }

    #[test]
    fn what_the_manager_signed_for_this_hello_is_believed() {
        assert_eq!(verified(&answer(), 3, PayloadType::HelloAnswer).unwrap(), answer());
    }

    #[test]
    fn an_unsigned_forged_or_repeated_answer_is_not() {
        let body = message::to_json(&answer());
        let unsigned = verify(&body, None, &AcceptedKeys::default(), &hello());
        assert!(matches!(unsigned, Err(Unbelieved::Signature(SignatureError::Missing))));
        let forged = verified(&answer(), 4, PayloadType::HelloAnswer);
        assert!(matches!(forged, Err(Unbelieved::Signature(SignatureError::UnknownKey(_)))));
        let command = verified(&answer(), 3, PayloadType::Command);
        assert!(matches!(command, Err(Unbelieved::Signature(SignatureError::Invalid(_)))), "signed as something else");
        for other in [
            HelloAnswer { nonce: "n1".into(), ..answer() },
            HelloAnswer { nonce: String::new(), ..answer() },
            HelloAnswer { boot_id: "a".into(), ..answer() },
            HelloAnswer { cluster_id: "c2".into(), ..answer() },
        ] {
            let repeated = verified(&other, 3, PayloadType::HelloAnswer);
            assert!(matches!(repeated, Err(Unbelieved::OtherHello)), "{other:?}");
        }
    }
}
