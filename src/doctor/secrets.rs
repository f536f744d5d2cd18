//! Secrets: each is here that a definition names, and this host can decrypt it.

use super::{Facts, Finding, Trap};

pub fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, machine) in &facts.spec.machines {
        let missing = machine.secret.iter().filter(|id| !facts.observed.has_secret(name, id));
        findings.extend(missing.map(|id| {
            let what = format!("its secret {id} is not on this host");
            Finding::error(Trap::SecretLost, name.as_str(), what, "it does not start without that")
                .fix(format!("nsctl secret set {name} {id}"))
        }));
    }
    findings.extend(facts.lost_secrets.iter().map(|((name, id), why)| {
        let what = format!("its secret {id} cannot be decrypted: {why}");
        Finding::error(Trap::SecretLost, name.as_str(), what, "it does not start with that")
            .fix(format!("nsctl secret set {name} {id}"))
    }));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emit::ManagedFile;
    use crate::spec::{Spec, definition_path};

    #[test]
    fn a_secret_that_is_gone_or_of_another_host_is_found() {
        let name: crate::name::MachineName = "web".parse().unwrap();
        let text = "secret = [\"a\", \"b\", \"c\"]\n[network]\nmode = \"routed\"\n";
        let files = [(definition_path(&name), text.to_owned())].into();
        let spec = Spec::parse(Some("pool = \"2001:db8:a::/48\""), &crate::spec::readable(&files)).unwrap();
        let mut facts = Facts { spec, ..Facts::default() };
        for id in ["b", "c"] {
            let path = ManagedFile::Secret(name.clone(), id.parse().unwrap()).path();
            facts.observed.files.insert(path, "x".into());
        }
        facts.lost_secrets.insert((name, "c".parse().unwrap()), "another key".into());
        let found = check(&facts);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!([&found[0].fix, &found[1].fix], ["nsctl secret set web a", "nsctl secret set web c"]);
    }
}
