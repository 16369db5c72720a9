//! What chains of credentials ask: files, commands and token services, each with a deadline.
//!
//! A [`Watch`] sees how that went for one link. The providers' own errors do not tell whether a failure may pass: one takes a
//! server's trouble for a wrong credential, another for none at all.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::sync::Mutex;
use bytes::Bytes;
use http::StatusCode;
use reqsign_core::{CommandExecute, CommandOutput, Context, Error, FileRead, HttpSend, OsEnv};
use rustix::process::{Pid, Signal, kill_process_group};

use super::{Transport, Wire, body, said};

/// A token service or command that does not answer in this time does not at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// A metadata service is on the machine or nowhere: on machines without one, nothing answers at all.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);
const METADATA_HOSTS: &[&str] = &["169.254.169.254", "169.254.170.2", "169.254.170.23", "metadata.google.internal"];
/// Services and commands that are asked without anybody having named them: that they are not there is normal.
const UNNAMED: &[&str] = &["169.254.169.254", "metadata.google.internal", "az"];
/// How often a running command is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Of what a command prints. Credentials are small.
const MOST_PRINTED: u64 = 1 << 20;

/// How asking went for one link.
#[derive(Debug)]
pub(super) struct Watch {
    /// Whether the link has given credentials before, so that whom it asks is there.
    is_known: bool,
    trouble: Mutex<Trouble>,
}

/// What was seen, in the order of its weight.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Trouble {
    #[default]
    None,
    /// Whom nobody named is not there.
    Absent,
    /// In words.
    MayPass(String),
}

impl Watch {
    pub(super) fn new(is_known: bool) -> Arc<Self> {
        Arc::new(Self { is_known, trouble: Mutex::default() })
    }

    pub(super) fn trouble(&self) -> Trouble {
        self.trouble.lock().clone()
    }

    fn note(&self, trouble: Trouble) {
        *self.trouble.lock() = trouble;
    }

    /// Somebody did not answer, or a command failed.
    fn silent(&self, who: &str, words: &str) {
        let is_absent = UNNAMED.contains(&who) && !self.is_known;
        self.note(if is_absent { Trouble::Absent } else { Trouble::MayPass(words.to_owned()) });
    }
}

/// A way out, whose client is made once a service is asked: most credentials need none.
#[derive(Debug)]
pub(super) struct Outside {
    timeouts: Transport,
    wire: OnceLock<Wire>,
}

impl Outside {
    pub(super) fn new(timeouts: &Transport) -> Arc<Self> {
        Arc::new(Self { timeouts: *timeouts, wire: OnceLock::new() })
    }

    /// The world as one link sees it.
    pub(super) fn context(self: &Arc<Self>, watch: &Arc<Watch>) -> Context {
        let limit = self.timeouts.credentials.min(ANSWER_TIMEOUT);
        Context::new()
            .with_env(OsEnv)
            .with_file_read(Files)
            .with_command_execute(Commands { limit, watch: watch.clone() })
            .with_http_send(Services { outside: self.clone(), limit, watch: watch.clone() })
    }

    fn wire(&self) -> Result<&Wire, String> {
        if let Some(wire) = self.wire.get() {
            return Ok(wire);
        }
        let made = Wire::new(&self.timeouts).map_err(|error| error.report())?;
        Ok(self.wire.get_or_init(|| made))
    }
}

#[derive(Debug)]
struct Files;

#[allow(clippy::disallowed_methods)] // credentials are kept in files
impl FileRead for Files {
    async fn file_read(&self, path: &str) -> reqsign_core::Result<Vec<u8>> {
        let path = path.to_owned();
        let read = tokio::task::spawn_blocking(move || {
            std::fs::read(&path).map_err(|cause| format!("cannot read `{path}`: {cause}"))
        });
        read.await.map_err(|cause| cause.to_string()).flatten().map_err(Error::config_invalid)
    }
}

/// Asks token and metadata services.
#[derive(Debug)]
struct Services {
    outside: Arc<Outside>,
    limit: Duration,
    watch: Arc<Watch>,
}

impl HttpSend for Services {
    async fn http_send(&self, request: http::Request<Bytes>) -> reqsign_core::Result<http::Response<Bytes>> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let at = request.uri().port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        let limit = if METADATA_HOSTS.contains(&&*host) { METADATA_TIMEOUT.min(self.limit) } else { self.limit };
        let answered = tokio::time::timeout(limit, self.exchange(request, &host)).await;
        let answered = answered.unwrap_or_else(|_| Err(format!("did not answer within {} s", limit.as_secs_f32())));
        match &answered {
            Ok(answer) if may_pass(answer.status()) => {
                self.watch.note(Trouble::MayPass(format!("{at} answered {}", answer.status().as_u16())));
            }
            Ok(_) => {}
            Err(words) => self.watch.silent(&host, &format!("{at} {words}")),
        }
        answered.map_err(|words| Error::unexpected(format!("{at} {words}")))
    }
}

impl Services {
    /// Errors are words without the URL, which may hold a secret.
    async fn exchange(&self, request: http::Request<Bytes>, host: &str) -> Result<http::Response<Bytes>, String> {
        let said = said::all_of(&request);
        let answer = self.outside.wire()?.execute(request).await.map_err(|cause| match cause {
            cause if cause.is_timeout() => "did not answer in time",
            cause if cause.is_connect() => "cannot be reached",
            _ => "broke the connection",
        })?;
        let mut response = http::Response::new(Bytes::new());
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        *response.body_mut() = body::collect(answer, host).await.map_err(|_| "broke the connection")?;
        // The providers put refusals into their errors.
        if !response.status().is_success() && said::repeats(&String::from_utf8_lossy(response.body()), &said) {
            response.body_mut().clear();
        }
        Ok(response)
    }
}

fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500..=599)
}

/// Runs commands, each in a process group of its own, so that its end is also that of what it started.
#[derive(Debug)]
struct Commands {
    limit: Duration,
    watch: Arc<Watch>,
}

impl CommandExecute for Commands {
    async fn command_execute(&self, program: &str, arguments: &[&str]) -> reqsign_core::Result<CommandOutput> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let wanted = Arc::new(());
        let (limit, is_wanted) = (self.limit, Arc::downgrade(&wanted));
        let ran = tokio::task::spawn_blocking(move || run(command, limit, &is_wanted)).await;
        let failed = |words: String| Err(Error::config_invalid(words));
        match ran {
            Ok(Ok(Some(output))) => {
                if output.status != 0 {
                    self.watch.silent(program, &format!("`{program}` failed"));
                }
                Ok(output)
            }
            Ok(Ok(None)) => {
                let words = format!("`{program}` did not end within {} s", limit.as_secs_f32());
                self.watch.silent(program, &words);
                failed(words)
            }
            Ok(Err(cause)) => failed(format!("cannot run `{program}`: {cause}")),
            Err(cause) => failed(cause.to_string()),
        }
    }
}

/// Runs a command to its end, or kills its group once the time is over or nobody waits for it. `None`: it was killed.
fn run(mut command: Command, limit: Duration, is_wanted: &Weak<()>) -> std::io::Result<Option<CommandOutput>> {
    let ends = Instant::now() + limit;
    let mut child = command.spawn()?;
    let (stdout, stderr) = (printed(child.stdout.take()), printed(child.stderr.take()));
    while !(stdout.is_finished() && stderr.is_finished()) {
        if is_over(&mut child, ends, is_wanted)? {
            return Ok(None);
        }
    }
    // Not before nobody prints any more: what is reaped cannot be told to end.
    let status: ExitStatus = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if is_over(&mut child, ends, is_wanted)? {
            return Ok(None);
        }
    };
    let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
    Ok(Some(CommandOutput { status: status.code().unwrap_or(-1), stdout, stderr }))
}

/// Waits a little, or kills and reaps.
fn is_over(child: &mut Child, ends: Instant, is_wanted: &Weak<()>) -> std::io::Result<bool> {
    if Instant::now() < ends && is_wanted.strong_count() > 0 {
        std::thread::sleep(LOOK);
        return Ok(false);
    }
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    child.kill()?;
    child.wait()?;
    Ok(true)
}

fn printed(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // What cannot be read is no credential.
            let _ = pipe.take(MOST_PRINTED).read_to_end(&mut bytes);
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(limit: Duration, is_known: bool) -> Commands {
        Commands { limit, watch: Watch::new(is_known) }
    }

    /// Whether a process is there, be it only to be reaped.
    fn is_there(pid: &str) -> bool {
        let pid = Pid::from_raw(pid.trim().parse().expect("a number")).expect("a process");
        rustix::process::test_kill_process(pid).is_ok()
    }

    /// Whether it runs.
    #[allow(clippy::disallowed_methods)] // where Linux tells it
    fn is_running(pid: &str) -> bool {
        is_there(pid) && std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    async fn wait_while(mut is_so: impl FnMut() -> bool) {
        let gone = async {
            while is_so() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), gone).await.expect("it ends");
    }

    #[tokio::test]
    async fn a_command_that_does_not_end_is_killed_with_what_it_started_and_reaped() {
        let folder = tempfile::tempdir().expect("a folder");
        let pids = folder.path().join("pids");
        let script = format!("sleep 600 & echo $! > {0}.new; echo $$ >> {0}.new; mv {0}.new {0}; wait", pids.display());
        let commands = commands(Duration::from_millis(500), false);
        let error = commands.command_execute("sh", &["-c", &script]).await.expect_err("killed");
        assert_eq!(error.to_string(), "`sh` did not end within 0.5 s");
        assert_eq!(commands.watch.trouble(), Trouble::MayPass(error.to_string()));
        let pids = std::fs::read_to_string(pids).expect("it had begun");
        let (started, own) = pids.trim().split_once('\n').expect("two processes");
        assert!(!is_there(own), "{own} is not reaped");
        wait_while(|| is_running(started)).await;
    }

    #[tokio::test]
    async fn a_command_that_nobody_waits_for_is_killed() {
        let folder = tempfile::tempdir().expect("a folder");
        let pid = folder.path().join("pid");
        let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600", pid.display());
        let commands = commands(Duration::from_mins(10), false);
        let arguments = ["-c", &*script];
        let mut asked = Box::pin(commands.command_execute("sh", &arguments));
        while !pid.exists() {
            assert!(tokio::time::timeout(LOOK, &mut asked).await.is_err(), "it does not end by itself");
        }
        drop(asked);
        let pid = std::fs::read_to_string(pid).expect("it had begun");
        wait_while(|| is_there(&pid)).await;
    }

    #[tokio::test]
    async fn a_command_that_fails_may_pass_unless_nobody_named_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let named = commands(ANSWER_TIMEOUT, false);
        let output = named.command_execute("sh", &["-c", "echo no >&2; exit 3"]).await.expect("it ran");
        assert_eq!((output.status, &*output.stderr), (3, &b"no\n"[..]));
        assert_eq!(named.watch.trouble(), Trouble::MayPass("`sh` failed".to_owned()));
        let missing = folder.path().join("nothing").display().to_string();
        let not_there = commands(ANSWER_TIMEOUT, false);
        assert!(not_there.command_execute(&missing, &[]).await.is_err());
        assert_eq!(not_there.watch.trouble(), Trouble::None, "what is not installed will not be");
        for (is_known, trouble) in [(false, Trouble::Absent), (true, Trouble::MayPass("words".to_owned()))] {
            let watch = Watch::new(is_known);
            watch.silent("az", "words");
            assert_eq!(watch.trouble(), trouble);
        }
    }
}
