//! Calls as a user, and what is compared of their answers.

use anyhow::{Context, anyhow};
use bench::wire::{Channel, Method, Status};
use interop::member::Member;
use interop::programs::Program;
use prost::Message;
use proto::{authpb, etcdserverpb as pb};

/// Password of every user of these tests.
pub const PASSWORD: &str = "pw";

/// A server and the tokens it gave out.
pub struct Server {
    pub member: Member,
    pub channel: Channel,
}

/// A verdict: the code and text of a refusal, or what is compared of an answer.
pub type Verdict = Result<String, (u16, String)>;

impl Server {
    pub async fn start(program: &Program, args: &[&str]) -> anyhow::Result<Self> {
        let args = [&["--bcrypt-cost", "4", "--unsafe-no-fsync"][..], args].concat();
        // On a thread of its own, since it waits.
        let started = std::thread::scope(|scope| scope.spawn(|| Member::start(program, &args)).join());
        Self::connect(started.map_err(|_| anyhow!("the start of a member panicked"))??).await
    }

    pub async fn connect(member: Member) -> anyhow::Result<Self> {
        let channel = Channel::connect(&member.authority()).await?;
        Ok(Self { member, channel })
    }

    pub fn method(&self, path: &str, token: Option<&str>) -> Method {
        let method = Method::new(&self.member.authority(), &format!("/etcdserverpb.{path}"))
            .expect("a path that is a constant of the test");
        match token {
            Some(token) => method.with_header("token", token),
            None => method,
        }
    }

    /// A call with one answer.
    pub async fn call<R: Message + Default>(
        &self,
        path: &str,
        token: Option<&str>,
        request: &impl Message,
    ) -> Result<R, Status> {
        self.channel.call(&self.method(path, token), request).await
    }

    /// The first answer on a stream that stays open.
    pub async fn first<R: Message + Default>(
        &self,
        path: &str,
        token: Option<&str>,
        request: &impl Message,
    ) -> Result<Option<R>, Status> {
        let mut stream = self.channel.open(&self.method(path, token)).await?;
        stream.send(request)?;
        stream.receive().await
    }

    /// A token for a user.
    pub async fn login(&self, name: &str, password: &str) -> Result<String, Status> {
        let request = pb::AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        let answer: pb::AuthenticateResponse = self.call("Auth/Authenticate", None, &request).await?;
        Ok(answer.token)
    }

    pub async fn user(&self, token: Option<&str>, name: &str) -> anyhow::Result<()> {
        let request =
            pb::AuthUserAddRequest { name: name.into(), password: PASSWORD.into(), ..Default::default() };
        let _: pb::AuthUserAddResponse = self.call("Auth/UserAdd", token, &request).await?;
        Ok(())
    }

    pub async fn role(&self, token: Option<&str>, name: &str) -> anyhow::Result<()> {
        let request = pb::AuthRoleAddRequest { name: name.into() };
        let _: pb::AuthRoleAddResponse = self.call("Auth/RoleAdd", token, &request).await?;
        Ok(())
    }

    pub async fn allow(
        &self,
        token: Option<&str>,
        role: &str,
        kind: authpb::permission::Type,
        (key, range_end): (&str, &str),
    ) -> anyhow::Result<()> {
        let (key, range_end) = (key.to_owned().into(), range_end.to_owned().into());
        let perm = Some(authpb::Permission { perm_type: kind.into(), key, range_end });
        let request = pb::AuthRoleGrantPermissionRequest { name: role.into(), perm };
        let _: pb::AuthRoleGrantPermissionResponse =
            self.call("Auth/RoleGrantPermission", token, &request).await?;
        Ok(())
    }

    pub async fn give(&self, token: Option<&str>, user: &str, role: &str) -> anyhow::Result<()> {
        let request = pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
        let _: pb::AuthUserGrantRoleResponse = self.call("Auth/UserGrantRole", token, &request).await?;
        Ok(())
    }

    /// User and role root, and auth switched on. Returns root's token.
    pub async fn enable(&self) -> anyhow::Result<String> {
        self.user(None, "root").await?;
        self.role(None, "root").await?;
        self.give(None, "root", "root").await?;
        let _: pb::AuthEnableResponse =
            self.call("Auth/AuthEnable", None, &pb::AuthEnableRequest {}).await.context("enable")?;
        Ok(self.login("root", PASSWORD).await?)
    }
}

/// What is compared when nothing of an answer is.
pub fn passed<R>(answer: Result<R, Status>) -> Verdict {
    shown(answer, |_| String::new())
}

/// Compares a refusal whole and of an answer what `show` makes of it.
pub fn shown<R>(answer: Result<R, Status>, show: impl FnOnce(R) -> String) -> Verdict {
    match answer {
        Ok(answer) => Ok(show(answer)),
        Err(status) => Err((status.code as u16, status.message)),
    }
}
