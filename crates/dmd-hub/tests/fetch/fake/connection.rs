//! The bytes on the wire: requests are read and answers are sent.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::thread;

use super::answers::{Response, respond};
use super::{Fault, Request, State};

/// Answers the requests of one connection until it ends.
pub fn serve(stream: TcpStream, state: &Mutex<State>, second: bool) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut request = Request { path, range: None, token: None, second };
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "range" => request.range = Some(value.to_owned()),
                "authorization" => request.token = value.strip_prefix("Bearer ").map(str::to_owned),
                _ => {}
            }
        }
        let (response, fault) = {
            let mut state = state.lock().unwrap();
            state.requests.push(request.clone());
            let at = state.faults.iter().position(|(part, _)| request.path.contains(part.as_str()));
            let fault = at.map(|at| state.faults.remove(at).1);
            (respond(&state, &request, fault.as_ref()), fault)
        };
        if !send(&stream, response, fault) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

/// Sends an answer; whether the connection goes on.
fn send(mut stream: &TcpStream, response: Response, fault: Option<Fault>) -> bool {
    let length = response.length.map(|length| format!("Content-Length: {length}\r\n")).unwrap_or_default();
    let head = format!("HTTP/1.1 {} X\r\n{length}{}\r\n", response.status, response.headers);
    let mut write = |bytes: &[u8]| stream.write_all(bytes).and_then(|()| stream.flush()).is_ok();
    let mut body = response.body.as_slice();
    match fault {
        Some(Fault::Cut(bytes)) => {
            write(head.as_bytes());
            write(&body[..bytes.min(body.len())]);
            return false;
        }
        Some(Fault::Stall(bytes, pause)) => {
            write(head.as_bytes());
            write(&body[..bytes.min(body.len())]);
            thread::sleep(pause);
            return false;
        }
        Some(Fault::Slow(pause)) => {
            write(head.as_bytes());
            while !body.is_empty() {
                let (piece, rest) = body.split_at(body.len().min(100_000));
                if !write(piece) {
                    return false;
                }
                thread::sleep(pause);
                body = rest;
            }
            return true;
        }
        _ => {}
    }
    write(head.as_bytes()) && write(body) && response.length.is_some()
}
