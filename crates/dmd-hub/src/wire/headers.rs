use std::time::Duration;

use ureq::http::{HeaderMap, header};

/// The pause that a server asks for: `Retry-After` in seconds, or the hub's `RateLimit: "api";r=0;t=55`.
pub(super) fn asked_pause(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let retry_after = text("retry-after").and_then(|text| text.trim().parse().ok());
    let rate_limit = || {
        let mut parts = text("ratelimit")?.split(';').map(str::trim);
        parts.find_map(|part| part.strip_prefix("t=")).and_then(|seconds| seconds.parse().ok())
    };
    retry_after.or_else(rate_limit).map(Duration::from_secs)
}

/// The address of the next page, from the header `Link: <…>; rel="next"`.
pub(super) fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(header::LINK).iter().filter_map(|value| value.to_str().ok());
    links.flat_map(|links| links.split(",")).find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let next =
            parameters.split(';').any(|parameter| matches!(parameter.trim(), "rel=\"next\"" | "rel=next"));
        next.then(|| target.to_owned())
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read() {
        let headers = |pairs: &[(&'static str, &str)]| {
            pairs
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect::<HeaderMap>()
        };
        let link = r#"<http://h/0>; rel="prev", <http://h/2?cursor=a%3D>; title=x; rel="next""#;
        assert_eq!(next_page(&headers(&[("link", link)])).unwrap(), "http://h/2?cursor=a%3D");
        assert_eq!(next_page(&headers(&[("link", r#"<http://h/0>; rel="prev""#)])), None);
        let pause = |name, value: &str| asked_pause(&headers(&[(name, value)]));
        assert_eq!(pause("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(pause("ratelimit", r#""api";r=0;t=55"#), Some(Duration::from_secs(55)));
        assert_eq!(pause("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"), None);
    }
}
