//! An etcd of three members in the router's network, with TLS, users and a role.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use serde_json::Value;

use crate::lab::{Daemon, Lab, until};

const ROUTER: &str = "2001:db8:ffff::1";
const WHO: [&str; 3] = ["server", "nsctl", "stranger"];

/// The program and the files are the host's, the network is the router's.
pub struct Cluster {
    folder: PathBuf,
    members: [Option<Daemon>; 3],
    /// How often it was made anew.
    age: u32,
    has_users: bool,
}

fn client(member: usize) -> String {
    format!("https://[{ROUTER}]:{}", 2379 + 10 * member)
}

fn peer(member: usize) -> String {
    format!("https://[{ROUTER}]:{}", 2380 + 10 * member)
}

fn endpoints() -> String {
    [client(0), client(1), client(2)].join(",")
}

impl Cluster {
    pub fn start(lab: &Lab) -> Result<Cluster> {
        lab.install("etcd-server etcd-client")?;
        lab.sh("systemctl disable --now -q etcd 2> /dev/null || true")?;
        let folder = lab.root()?.join("root/etcd");
        fs::create_dir_all(&folder)?;
        let mut cluster = Cluster { folder, members: [None, None, None], age: 0, has_users: false };
        cluster.sign()?;
        cluster.boot(lab)?;
        for words in [
            "user add root:geheim",
            "user grant-role root root",
            "role add fleet",
            "role grant-permission fleet --prefix=true readwrite /nsctl/",
            "user add nsctl:kennwort",
            "user grant-role nsctl fleet",
            "auth enable",
        ] {
            cluster.ctl(lab, words)?;
        }
        cluster.has_users = true;
        Ok(cluster)
    }

    /// Keys on this machine, not in the host: openssl(1) is here.
    fn sign(&self) -> Result<()> {
        let script = "cd \"$1\"; shift
            openssl ecparam -name prime256v1 -genkey -noout -out ca.key
            openssl req -x509 -new -key ca.key -subj /CN=ca -days 30 -out ca.pem
            for who in \"$@\"; do
                openssl ecparam -name prime256v1 -genkey -noout -out $who.key
                openssl req -new -key $who.key -subj /CN=$who -out $who.csr
                printf 'subjectAltName=IP:2001:db8:ffff::1\\nextendedKeyUsage=serverAuth,clientAuth\\n' > $who.ext
                openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile $who.ext -out $who.pem
            done; chmod 600 *.key";
        let mut command = std::process::Command::new("sh");
        command.args(["-euc", script, "sh"]).arg(&self.folder).args(WHO);
        let done = command.output().context("openssl")?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }

    /// What a host needs to come in.
    pub fn give_keys(&self, host: &Lab) -> Result<()> {
        let place = host.root()?.join("etc/nsctl/etcd");
        fs::create_dir_all(&place)?;
        for file in ["ca.pem", "nsctl.pem", "nsctl.key", "stranger.pem", "stranger.key"] {
            fs::copy(self.folder.join(file), place.join(file))?;
        }
        host.sh("chown -R root:root /etc/nsctl/etcd; chmod 600 /etc/nsctl/etcd/*.key; (umask 077; echo kennwort > /etc/nsctl/etcd/password)").map(drop)
    }

    /// How a host joins that comes in by its certificate's name, or by a password.
    pub fn join(&self, how: &str) -> String {
        let with = match how {
            "password" => {
                "--cert /etc/nsctl/etcd/stranger.pem --key /etc/nsctl/etcd/stranger.key --user nsctl --password-file /etc/nsctl/etcd/password"
            }
            _ => "--cert /etc/nsctl/etcd/nsctl.pem --key /etc/nsctl/etcd/nsctl.key",
        };
        format!("fleet join --etcd {} --ca /etc/nsctl/etcd/ca.pem {with}", endpoints())
    }

    /// One whom nobody knows there.
    pub fn stranger(&self) -> String {
        self.join("").replace("/nsctl.pem", "/stranger.pem").replace("/nsctl.key", "/stranger.key")
    }

    fn data(&self, member: usize) -> String {
        format!("/root/etcd/data{member}-{}", self.age)
    }

    pub fn spawn(&mut self, lab: &Lab, member: usize) -> Result<()> {
        let root = lab.root()?.to_string_lossy().into_owned();
        let all = (0..3).map(|one| format!("m{one}={}", peer(one))).collect::<Vec<_>>().join(",");
        let (name, data) = (format!("m{member}"), self.data(member));
        let token = format!("--initial-cluster-token=age{}", self.age);
        let words = [
            "chroot",
            &root,
            "etcd",
            "--name",
            &name,
            "--data-dir",
            &data,
            &token,
            "--initial-cluster",
            &all,
            "--listen-client-urls",
            &client(member),
            "--advertise-client-urls",
            &client(member),
            "--listen-peer-urls",
            &peer(member),
            "--initial-advertise-peer-urls",
            &peer(member),
            "--cert-file=/root/etcd/server.pem",
            "--key-file=/root/etcd/server.key",
            "--client-cert-auth",
            "--trusted-ca-file=/root/etcd/ca.pem",
            "--peer-cert-file=/root/etcd/server.pem",
            "--peer-key-file=/root/etcd/server.key",
            "--peer-client-cert-auth",
            "--peer-trusted-ca-file=/root/etcd/ca.pem",
        ];
        let mut command = lab.router.command(&words);
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("log{member}")))?;
        let log = log.into_parts().0;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.members[member] = Some(Daemon::spawn(&mut command)?);
        Ok(())
    }

    fn boot(&mut self, lab: &Lab) -> Result<()> {
        for member in 0..3 {
            self.spawn(lab, member)?;
        }
        let log = self.folder.join("log0");
        until(Duration::from_secs(30), "etcd answers", || Ok(self.ctl(lab, "endpoint health").is_ok()))
            .with_context(|| fs::read_to_string(log).unwrap_or_default())
    }

    pub fn kill(&mut self, member: usize) {
        self.members[member] = None;
    }

    /// As root of etcd's own.
    fn ctl(&self, lab: &Lab, words: &str) -> Result<String> {
        self.ctl_at(lab, &endpoints(), words)
    }

    fn ctl_at(&self, lab: &Lab, endpoints: &str, words: &str) -> Result<String> {
        let root = lab.root()?.to_string_lossy().into_owned();
        let endpoints = format!("--endpoints={endpoints}");
        let mut all = vec![
            "chroot",
            &root,
            "env",
            "ETCDCTL_API=3",
            "ETCDCTL_USER=root:geheim",
            "etcdctl",
            &endpoints,
            "--cacert=/root/etcd/ca.pem",
            "--cert=/root/etcd/server.pem",
            "--key=/root/etcd/server.key",
            "--command-timeout=20s",
        ];
        // Before there are users, none may be named.
        if !self.has_users {
            all[4] = "LANG=C";
        }
        all.extend(words.split(' '));
        let done = lab.router.run(&all)?;
        ensure!(done.ok(), "etcdctl {words}: {}", done.all());
        Ok(done.stdout)
    }

    pub fn leader(&self, lab: &Lab) -> Result<usize> {
        let all: Value = serde_json::from_str(&self.ctl(lab, "endpoint status -w json")?)?;
        let leads = |one: &&Value| one["Status"]["leader"] == one["Status"]["header"]["member_id"];
        let leader = all.as_array().into_iter().flatten().find(leads).context("no leader")?;
        (0..3).find(|member| leader["Endpoint"] == client(*member)).context("another leader")
    }

    /// One member's copy: etcdctl takes no more than one for that.
    pub fn save(&self, lab: &Lab) -> Result<()> {
        self.ctl_at(lab, &client(0), "snapshot save /root/etcd/copy").map(drop)
    }

    /// All of it ends, and comes back as it was at the copy.
    pub fn restore(&mut self, lab: &Lab) -> Result<()> {
        self.members = [None, None, None];
        self.age += 1;
        let root = lab.root()?.to_string_lossy().into_owned();
        let all = (0..3).map(|one| format!("m{one}={}", peer(one))).collect::<Vec<_>>().join(",");
        for member in 0..3 {
            let (name, data) = (format!("m{member}"), self.data(member));
            let (url, token) = (peer(member), format!("--initial-cluster-token=age{}", self.age));
            let words = [
                "chroot",
                &root,
                "env",
                "ETCDCTL_API=3",
                "etcdctl",
                "snapshot",
                "restore",
                "/root/etcd/copy",
                "--name",
                &name,
                "--data-dir",
                &data,
                "--initial-cluster",
                &all,
                "--initial-advertise-peer-urls",
                &url,
                &token,
            ];
            let done = lab.router.run(&words)?;
            ensure!(done.ok(), "{}", done.all());
        }
        self.boot(lab)
    }
}
