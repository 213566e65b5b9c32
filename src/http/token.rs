//! Who may change something: whoever sends the configured token as `Authorization: Bearer`.

use std::hint::black_box;

use actix_web::HttpRequest;
use actix_web::http::header;

use crate::config::Secret;
use crate::http::problem::Problem;

/// Looks at the token of a request.
///
/// # Errors
/// 401, which says whether a token is configured at all, and nothing about what is wrong with the given one.
pub fn check(request: &HttpRequest, token: Option<&Secret>) -> Result<(), Problem> {
    let Some(token) = token else {
        return Err(Problem::unauthorized("no token is configured (http.admin_token_file), so this call is off"));
    };
    let mut given = request.headers().get_all(header::AUTHORIZATION);
    let is_right = match (given.next(), given.next()) {
        (Some(value), None) => bearer(value.as_bytes()).is_some_and(|given| same(given, token.expose().as_bytes())),
        _ => false,
    };
    if is_right { Ok(()) } else { Err(Problem::unauthorized("send the header `Authorization: Bearer <token>`")) }
}

/// The scheme's name is not case-sensitive.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Takes as long for one wrong token as for any other of its length.
fn same(given: &[u8], expected: &[u8]) -> bool {
    let mut differences = u8::from(given.len() != expected.len());
    for (at, byte) in given.iter().enumerate() {
        // An empty token is refused by the configuration.
        let against = expected.get(at % expected.len().max(1)).copied().unwrap_or(0);
        differences |= black_box(byte ^ against);
    }
    black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_token_is_the_same() {
        assert!(same(b"secret", b"secret"));
        for wrong in [&b""[..], b"s", b"secre", b"secret2", b"Secret", b"secretsecret", b"terces"] {
            assert!(!same(wrong, b"secret"), "{wrong:?}");
        }
        assert_eq!(bearer(b"bearer  x "), Some(&b"x"[..]));
        assert_eq!(bearer(b"Basic x"), None);
        assert_eq!(bearer(b""), None);
    }
}
