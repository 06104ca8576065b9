//! Table options that are maps, from the CQL text that the schema keeps them as.

/// The entries of `{'a': 'b', ...}`; nothing if it is no such text.
pub(super) fn entries(text: &str) -> Vec<(String, String)> {
    let mut quoted = texts(text).into_iter();
    let mut entries = Vec::new();
    while let (Some(key), Some(value)) = (quoted.next(), quoted.next()) {
        entries.push((key, value));
    }
    entries
}

/// Everything in single quotes; two of them inside are one.
fn texts(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('\'') {
        let mut content = String::new();
        rest = &rest[start + 1..];
        while let Some(end) = rest.find('\'') {
            content.push_str(&rest[..end]);
            rest = &rest[end + 1..];
            match rest.strip_prefix('\'') {
                Some(after) => {
                    content.push('\'');
                    rest = after;
                }
                None => break,
            }
        }
        found.push(content);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_back() {
        let check = |text: &str, expected: &[(&str, &str)]| {
            let expected: Vec<_> = expected
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            assert_eq!(entries(text), expected, "{text}");
        };
        check("{}", &[]);
        check("{'a': 'b', 'c': ''}", &[("a", "b"), ("c", "")]);
        check("{'it''s': '{''x'': 1}'}", &[("it's", "{'x': 1}")]);
        check("99.0PERCENTILE", &[]);
    }
}
