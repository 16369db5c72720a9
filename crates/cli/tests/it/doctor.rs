use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use headwater::object;
use headwater::source::is_sha256_checked;
use headwater::value::{DType, Dict, Tensor, Value};
use headwater_testkit::server::{DATASET, Fault, On, Rule, Server, Speed};
use serde_json::Value as Json;
use tempfile::TempDir;

use super::{err, out, text};

/// What nothing may ever say.
const SECRET: &str = "pl4ntedS3cretOfTheTests";

/// Variables of the machine's own that would lead elsewhere.
const UNSET: &[&str] =
    &["AWS_PROFILE", "AWS_REGION", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

fn folder() -> TempDir {
    let dir = tempfile::tempdir().expect("directory");
    let data = vec![7; 40_000];
    let tensor = Tensor::from_bytes(DType::U8, &[40_000], data.into()).expect("tensor");
    let value = Value::Dict(Dict::from_iter([("latents", Value::Tensor(tensor))]));
    for name in ["a.pt", "b.pt", "c.pt"] {
        object::save(&dir.path().join(name), &value).expect("saved");
    }
    dir
}

fn server() -> Server {
    let server = Server::start(Speed::default()).expect("a server");
    server.put_folder(folder().path()).expect("stored");
    server
}

/// The command, with credentials that are a secret in every place where there may be some.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    for name in UNSET {
        command.env_remove(name);
    }
    command.args(["doctor", "--seconds", "0.3"]).args(arguments).envs([
        ("AWS_ACCESS_KEY_ID", SECRET),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("HF_TOKEN", SECRET),
        ("HOME", "/nonexistent"),
    ]);
    command
}

fn doctor(arguments: &[&str]) -> Output {
    let output = command(arguments).output().expect("the command runs");
    let said = out(&output) + &err(&output);
    assert!(!said.contains(SECRET) && !said.contains(&SECRET[..8]), "{arguments:?} tells a secret: {said}");
    output
}

/// Steps by name and status, and the exit code; the whole document for more.
fn steps(arguments: &[&str]) -> (Vec<(String, String)>, i32, Json) {
    let output = doctor(&[arguments, &["--json"]].concat());
    let document: Json = serde_json::from_str(&out(&output)).unwrap_or_else(|_| panic!("JSON: {}", err(&output)));
    let named = |step: &Json, name: &str| step[name].as_str().expect("text").to_owned();
    let steps = document["steps"].as_array().expect("steps").iter();
    let steps = steps.map(|step| (named(step, "step"), named(step, "status"))).collect();
    assert_eq!(document["exit_code"].as_i64(), output.status.code().map(i64::from));
    (steps, output.status.code().expect("ended"), document)
}

fn step<'a>(document: &'a Json, name: &str) -> &'a Json {
    let steps = document["steps"].as_array().expect("steps");
    steps.iter().find(|step| step["step"] == name).unwrap_or_else(|| panic!("no {name} in {document}"))
}

/// The first step that is not ok, how it is, and its line of advice.
fn trouble(arguments: &[&str]) -> (String, String, String, i32) {
    let (steps, code, document) = steps(arguments);
    let (name, status) = steps.into_iter().find(|(_, status)| status != "ok").expect("trouble");
    let advice = step(&document, &name)["advice"].as_str().expect("advice").to_owned();
    (name, status, advice, code)
}

#[test]
fn healthy_places_of_every_kind_are_ok_in_every_step() {
    let server = server();
    let (endpoint, azure, hub, http) = (server.endpoint(), server.azure(), server.hub(), server.http());
    let dataset = format!("hf://datasets/{DATASET}");
    for (arguments, checksum) in [
        (vec!["s3://bucket", "--endpoint", &endpoint], Some("CRC-32C")),
        (vec!["gs://bucket", "--endpoint", &endpoint, "--anonymous"], Some("CRC-32C")),
        (
            vec!["az://bucket", "--endpoint", &azure, "--account", "devstoreaccount1", "--option", "access_key=a2V5"],
            None,
        ),
        (vec![&dataset, "--endpoint", &hub, "--anonymous"], is_sha256_checked().then_some("SHA-256")),
        (vec![&http], None),
    ] {
        let (steps, code, document) = steps(&arguments);
        assert!(code == 0 && steps.len() == 9, "{document:#}");
        assert!(steps.iter().all(|(_, status)| status == "ok"), "{document:#}");
        let read = &step(&document, "read")["facts"];
        assert_eq!((read["checksum"].as_str(), read["pinned"].as_bool()), (checksum, Some(true)), "{document:#}");
        assert_eq!(step(&document, "listed")["facts"]["known"], 3);
        let range = &step(&document, "range")["facts"];
        // What a commit holds cannot change, so there is nothing to refuse.
        assert_eq!(range["conditions"].as_bool(), (!arguments[0].starts_with("hf")).then_some(true), "{document:#}");
        let speed = &step(&document, "speed")["facts"];
        assert!(speed["requests_per_second"].as_f64() > Some(1.0) && speed["concurrency"].as_u64() >= Some(16));
    }
}

#[test]
fn a_local_folder_is_asked_only_what_makes_sense() {
    let dir = folder();
    let (steps, code, document) = steps(&[text(dir.path()), "--no-speed"]);
    let names: Vec<_> = steps.iter().map(|(name, status)| format!("{name} {status}")).collect();
    assert_eq!((names, code), (["understood", "listed", "read", "decodes"].map(|it| format!("{it} ok")).into(), 0));
    assert_eq!(step(&document, "decodes")["facts"]["tensor_bytes"], 40_000);
    let (name, status, advice, code) = trouble(&["/nowhere/at/all"]);
    assert_eq!((&*name, &*status, code), ("listed", "fail", 3));
    assert!(advice.contains("path"), "{advice}");
}

#[test]
fn every_step_is_a_line_and_every_trouble_one_more() {
    let server = server();
    let output = doctor(&["s3://bucket", "--endpoint", &server.endpoint(), "--no-speed"]);
    let said = out(&output);
    assert_eq!(said.lines().count(), 8, "{said}");
    assert!(said.lines().all(|line| line.starts_with("ok    ")), "{said}");
    assert!(said.contains("credentials  AWS_ACCESS_KEY_ID of the environment"), "{said}");
    assert!(said.contains("CRC-32C verified") && said.contains("another version is refused by the server"), "{said}");
    assert_eq!(err(&output), "");

    let output = doctor(&["s3://other", "--endpoint", &server.endpoint(), "--no-speed"]);
    let said = out(&output);
    assert!(said.contains("\nFAIL  listed       cannot list `s3://other`: there is no bucket `other`"), "{said}");
    assert!(said.contains("\n                   -> check the name"), "{said}");
    assert!(said.contains("\nskip  read         needs more than `listed` found\nskip  range"), "{said}");
    assert_eq!((output.status.code(), err(&output)), (Some(3), String::new()));
}

#[test]
fn a_port_where_nobody_listens_fails_the_connection() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let (steps, code, document) = steps(&["s3://bucket", "--endpoint", &endpoint]);
    let statuses: Vec<_> = steps.iter().map(|(_, status)| &**status).collect();
    assert_eq!(statuses, [&["ok", "ok", "fail"][..], &["skip"; 6]].concat());
    let advice = step(&document, "connected")["advice"].as_str().expect("advice");
    assert!(advice.starts_with(&format!("nothing listens on port {port} there")), "{advice}");
    assert_eq!(code, 6);
}

#[test]
fn a_host_without_an_address_fails_the_second_step() {
    let (name, status, advice, code) = trouble(&["https://no-such-host.invalid/x"]);
    assert_eq!((&*name, &*status, code), ("resolved", "fail", 6));
    assert!(advice.contains("name"), "{advice}");
}

#[test]
fn what_cannot_be_meant_fails_the_first_step() {
    for arguments in [&["ftp://host/x"][..], &["s3:bucket"], &["gs://bucket", "--region", "eu"], &["s3://b?x=1"]] {
        let (name, status, _, code) = trouble(arguments);
        assert_eq!((&*name, &*status, code), ("understood", "fail", 2), "{arguments:?}");
    }
}

#[test]
fn credentials_that_do_not_suffice_fail_where_they_are_refused() {
    let server = server();
    let endpoint = server.endpoint();
    server.set_faults(vec![Rule::always(Fault::Denied).on(On::List)]);
    let (name, status, advice, code) = trouble(&["s3://bucket", "--endpoint", &endpoint]);
    assert_eq!((&*name, &*status, code), ("listed", "fail", 4));
    assert!(advice.contains("AWS_ACCESS_KEY_ID") && advice.contains("--anonymous"), "{advice}");
    server.set_faults(vec![Rule::always(Fault::Denied)]);
    let (name, _, _, code) = trouble(&["s3://bucket", "--endpoint", &endpoint]);
    assert_eq!((&*name, code), ("read", 4));
}

#[test]
fn credentials_that_are_not_there_fail_the_fourth_step() {
    let server = server();
    let arguments = ["s3://bucket", "--endpoint", &server.endpoint()];
    let output = command(&arguments).env_remove("AWS_ACCESS_KEY_ID").output().expect("the command runs");
    let said = out(&output);
    assert!(said.contains("\nFAIL  credentials "), "{said}");
    assert!(said.contains("-> set AWS_ACCESS_KEY_ID") && !said.contains(SECRET), "{said}");
    assert_eq!(output.status.code(), Some(4));
}

#[test]
fn a_server_that_ignores_ranges_or_loses_bytes_is_found_out() {
    let server = server();
    let endpoint = server.endpoint();
    let arguments = ["s3://bucket", "--endpoint", &endpoint, "--no-speed"];
    server.set_faults(vec![Rule::always(Fault::WholeForRange)]);
    let (name, status, advice, code) = trouble(&arguments);
    assert_eq!((&*name, &*status, code), ("range", "warn", 0));
    assert!(advice.starts_with("large objects are read whole"), "{advice}");
    for (fault, code) in [(Fault::Flip, 6), (Fault::Truncate, 6), (Fault::Swap, 6)] {
        server.set_faults(vec![Rule::always(fault.clone())]);
        let (name, status, _, found) = trouble(&arguments);
        assert_eq!((&*name, &*status, found), ("read", "fail", code), "{fault:?}");
    }
}

#[test]
fn what_is_there_and_of_no_use_is_warned_of() {
    let server = Server::start(Speed::default()).expect("a server");
    let endpoint = server.endpoint();
    let arguments = ["s3://bucket", "--endpoint", &endpoint];
    let (name, status, advice, code) = trouble(&arguments);
    assert_eq!((&*name, &*status, code), ("listed", "warn", 0));
    assert!(advice.contains("prefix"), "{advice}");
    server.put("notes.txt", Bytes::from_static(b"words"));
    let (steps, code, document) = steps(&arguments);
    assert!(code == 0 && steps.iter().all(|(_, status)| status == "ok" || status == "warn"), "{document:#}");
    assert_eq!(step(&document, "decodes")["status"], "warn");
    server.put("broken.pt", Bytes::from_static(b"PK\x03\x04 not a zip"));
    let (name, status, _, code) = trouble(&arguments);
    assert_eq!((&*name, &*status, code), ("decodes", "fail", 5));
}

#[test]
fn a_secret_in_an_endpoint_a_uri_or_an_option_is_never_told() {
    let server = server();
    let with_secret = |url: &str| url.replace("://", &format!("://user:{SECRET}@"));
    let (endpoint, http) = (with_secret(&server.endpoint()), with_secret(&server.http()));
    let dead = format!("http://user:{SECRET}@127.0.0.1:1");
    let option = format!("secret_access_key={SECRET}");
    let unknown = format!("wrong_name={SECRET}");
    for fault in [None, Some(Fault::Denied), Some(Fault::LoginPage), Some(Fault::ErrorPage)] {
        server.set_faults(fault.map(|fault| Rule::always(fault).on(On::Any)).into_iter().collect());
        for arguments in [
            &["s3://bucket", "--endpoint", &endpoint, "--no-speed"][..],
            &["s3://bucket", "--endpoint", &endpoint, "--option", &option],
            &["s3://bucket", "--endpoint", &endpoint, "--option", &unknown],
            &["s3://bucket", "--endpoint", &dead],
            &["hf://datasets/private/bucket", "--endpoint", &endpoint],
            &[&http, "--no-speed"],
            &[&http.replace("http:", "ftp:")],
        ] {
            doctor(arguments);
            doctor(&[arguments, &["--json"]].concat());
        }
    }
}

#[test]
fn a_proxy_in_between_excuses_what_fails_from_here() {
    let server = server();
    let proxy = server.endpoint().replace("://", &format!("://user:{SECRET}@"));
    let arguments = ["http://no-such-host.invalid/plain/", "--no-speed"];
    let output = command(&arguments).env("HTTP_PROXY", proxy).output().expect("the command runs");
    let said = out(&output) + &err(&output);
    assert!(said.contains("\nwarn  resolved ") && said.contains("proxy http://***@127.0.0.1"), "{said}");
    assert!(said.contains("\nok    connected    not directly") && said.contains("\nok    read "), "{said}");
    assert!(!said.contains(SECRET) && output.status.success(), "{said}");
}

#[test]
fn ctrl_c_ends_it_at_once() {
    let server = server();
    server.set_faults(vec![Rule::always(Fault::StallMid(Duration::from_mins(1)))]);
    let arguments = ["s3://bucket", "--endpoint", &server.endpoint()];
    let mut child = command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the command runs");
    let began = Instant::now();
    while server.faults_done() == 0 {
        assert!(began.elapsed() < Duration::from_mins(1), "it never read");
        std::thread::sleep(Duration::from_millis(10));
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(sent.success());
    let status = child.wait().expect("ends");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(2));
    assert!(began.elapsed() < Duration::from_mins(1));
}

#[test]
fn options_are_given_to_those_who_know_them_only() {
    let (name, status, _, code) = trouble(&["s3://bucket", "--account", "x"]);
    assert_eq!((&*name, &*status, code), ("understood", "fail", 2));
}
