//! What the hub refuses, and which of its answers are refused.

use std::fs;
use std::path::Path;

use dmd_hub::{Error, Hub};
use tempfile::tempdir;

use crate::fake::{FakeHub, Fault, TOKEN, fetch, fetch_file};
use crate::{CHOSEN, assert_whole, names, repository};

#[test]
fn the_token_goes_to_the_hub_alone() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    hub.state().gated = true;
    let here = hub.client(home.path(), &[("HF_TOKEN", TOKEN)]);
    fetch(&here, "org/model").unwrap();
    let requests = hub.requests();
    assert!(requests.iter().any(|request| request.second));
    for request in &requests {
        assert_eq!(request.token.as_deref(), (!request.second).then_some(TOKEN), "{request:?}");
    }
    assert!(!format!("{here:?}").contains(TOKEN));
    // Nor with the next page of a list.
    let home = tempdir().unwrap();
    let second = hub.state().second.clone();
    hub.fault("/tree/", Fault::Redirect(format!("{second}/cdn/README.md")));
    let here = hub.client(home.path(), &[("HF_TOKEN", TOKEN)]);
    assert!(matches!(fetch(&here, "org/model"), Err(Error::Answer { .. })));
    assert!(hub.requests().iter().all(|request| request.second == request.token.is_none()));
}

#[test]
fn redirects_end() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    for _ in 0..20 {
        hub.fault("/revision/", Fault::Redirect("/api/models/org/model/revision/main".to_owned()));
    }
    let error = fetch(&hub.client(home.path(), &[]), "org/model").unwrap_err();
    assert!(error.to_string().contains("redirects again and again"), "{error}");
    hub.state().faults.clear();
    hub.fault("/revision/", Fault::Redirect("file:///etc/passwd".to_owned()));
    assert!(matches!(fetch(&hub.client(home.path(), &[]), "org/model"), Err(Error::Answer { .. })));
}

#[test]
fn what_the_hub_refuses_is_told_apart() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    let here = hub.client(home.path(), &[]);
    let error = fetch(&here, "org/none").unwrap_err();
    assert!(matches!(error, Error::RepositoryNotFound { with_token: false, .. }), "{error}");
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");
    let error = fetch(&here, "org/model@none").unwrap_err();
    assert!(matches!(&error, Error::RevisionNotFound { revision, .. } if revision == "none"), "{error}");
    let missing = "3".repeat(40);
    let error = fetch(&here, &format!("org/model@{missing}")).unwrap_err();
    assert!(matches!(&error, Error::RevisionNotFound { revision, .. } if revision == &missing), "{error}");
    let error = fetch(&here, "org/model:none.safetensors").unwrap_err();
    assert!(matches!(&error, Error::FileNotFound { file, .. } if file == "none.safetensors"), "{error}");
    hub.fault("/resolve/", Fault::Status(404, "X-Error-Code: EntryNotFound\r\n"));
    let error = fetch_file(&here, "unet/config.json").unwrap_err();
    assert!(matches!(&error, Error::FileNotFound { file, .. } if file == "unet/config.json"), "{error}");
    hub.fault("/resolve/", Fault::Status(403, "X-Error-Message: Access to this resource is disabled.\r\n"));
    let error = fetch_file(&here, "unet/config.json").unwrap_err();
    assert!(error.to_string().contains("403 (Access to this resource is disabled.)"), "{error}");
    let error = fetch(&hub.client(home.path(), &[("HF_TOKEN", "hf_old")]), "org/model").unwrap_err();
    assert!(matches!(error, Error::TokenRefused), "{error}");
    assert!(names(&repository(home.path()).join("blobs")).is_empty());
}

#[test]
fn a_gated_repository_names_its_page() {
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    hub.state().gated = true;
    let page = format!("{}/org/model", hub.endpoint);
    for (token, hint) in
        [(None, "set HF_TOKEN"), (Some(("HF_TOKEN", "hf_stranger")), "of the account that did so")]
    {
        let error = fetch(&hub.client(home.path(), token.as_slice()), "org/model").unwrap_err();
        assert!(matches!(&error, Error::Gated { page: named, .. } if named == &page), "{error}");
        assert!(
            error.to_string().contains("accept its conditions") && error.to_string().contains(hint),
            "{error}"
        );
    }
}

#[test]
fn names_that_leave_the_folder_are_refused_before_anything_is_written() {
    for name in [
        "../../../evil.json",
        "/tmp/evil.json",
        "a/../../evil.json",
        "a\\..\\evil.json",
        "C:/evil.json",
        "evil?.json",
    ] {
        let (hub, home) = (FakeHub::new(), tempdir().unwrap());
        hub.state().files.insert(name.to_owned(), b"{}".to_vec());
        let here = hub.client(home.path(), &[]);
        let error = fetch_file(&here, "*evil*").unwrap_err();
        assert!(matches!(&error, Error::Name { name: named, .. } if named == name), "{error}");
        assert!(!repository(home.path()).join("blobs").exists());
        assert!(!Path::new("/tmp/evil.json").exists());
        // They do not stand in the way of a model that does not need them.
        fetch(&here, "org/model").unwrap();
    }
    // Odd but harmless names are names.
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    hub.state().files.insert("Bild 1 (ä)#%41.json".to_owned(), b"{}".to_vec());
    let snapshot = fetch_file(&hub.client(home.path(), &[]), "Bild*").unwrap();
    assert_whole(&hub, &snapshot.folder, &["Bild 1 (ä)#%41.json"]);
}

#[test]
fn a_list_that_is_broken_is_not_used() {
    let file = |oid: &str| format!(r#"[{{"type":"file","oid":"{oid}","size":2,"path":"unet/config.json"}}]"#);
    for text in [
        r#"[{"type":"file","oid":"11"#.to_owned(),
        "<html></html>".to_owned(),
        r#"{"error":"x"}"#.to_owned(),
        file("../../../x"),
        file(""),
        file(&"A".repeat(40)),
    ] {
        let (hub, home) = (FakeHub::new(), tempdir().unwrap());
        hub.fault("cursor=3", Fault::Text(text));
        let here = hub.client(home.path(), &[]);
        assert!(matches!(fetch(&here, "org/model"), Err(Error::Answer { .. })));
        assert_eq!(fetch(&here, "org/model").unwrap().selection.files.len(), CHOSEN);
    }
    // Cut in the middle: asked for again.
    let (hub, home) = (FakeHub::new(), tempdir().unwrap());
    hub.fault("cursor=3", Fault::Cut(20));
    assert_eq!(fetch(&hub.client(home.path(), &[]), "org/model").unwrap().selection.files.len(), CHOSEN);
    // A commit that could be a path.
    for sha in ["../../x", "main", ""] {
        hub.fault("/revision/", Fault::Text(format!(r#"{{"sha":"{sha}"}}"#)));
        assert!(matches!(
            fetch(&hub.client(tempdir().unwrap().path(), &[]), "org/model"),
            Err(Error::Answer { .. })
        ));
    }
}

#[test]
fn an_address_that_is_none_is_refused() {
    let hub = |endpoint: &str, certificates: Option<&str>| {
        Hub::from_variables(|name| match name {
            "HF_ENDPOINT" => Some(endpoint.to_owned()),
            "HOME" => Some("/nowhere".to_owned()),
            "SSL_CERT_FILE" => certificates.map(str::to_owned),
            _ => None,
        })
    };
    for endpoint in ["huggingface.co", "ftp://x", "https://"] {
        let error = hub(endpoint, None).unwrap_err();
        assert!(matches!(&error, Error::Setting { variable, .. } if variable == "HF_ENDPOINT"), "{error}");
    }
    // Certificates that are none; without TLS they are not read.
    let folder = tempdir().unwrap();
    let file = folder.path().join("none.pem");
    fs::write(&file, "none").unwrap();
    for file in [file.to_str().unwrap(), "/nowhere/none.pem"] {
        let error = hub("https://localhost", Some(file)).unwrap_err();
        assert!(matches!(&error, Error::Setting { variable, .. } if variable == "SSL_CERT_FILE"), "{error}");
        hub("http://localhost", Some(file)).unwrap();
    }
}
