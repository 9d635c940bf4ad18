//! A pipeline in a program of yours: one thread owns it, any number of others ask it through a channel.
//!
//! `cargo run --release --example serve_from_your_app` starts six threads that ask for a picture each. It prints how many
//! calls drew them, since requests that wait together are drawn together, and writes `serve_from_your_app.png`. `dmd serve`
//! does the same over HTTP.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::{iter, thread};

use anyhow::{anyhow, ensure};
use dmd::data::{grid, save};
use dmd::infer::{Pipeline, Request};
use image::RgbImage;

/// A picture that somebody waits for.
struct Job {
    prompt: String,
    seed: u64,
    answer: Sender<Result<RgbImage, String>>,
}

/// Draws what comes through the channel, up to eight pictures together, until all who could ask are gone; the number of calls.
fn work(pipeline: Pipeline, jobs: Receiver<Job>) -> usize {
    let mut calls = 0;
    while let Ok(job) = jobs.recv() {
        let waiting: Vec<Job> = iter::once(job).chain(jobs.try_iter().take(7)).collect();
        let request = Request::new(waiting.iter().map(|job| job.prompt.as_str()));
        let drawn = pipeline.generate(&request.with_seeds(waiting.iter().map(|job| job.seed)));
        calls += 1;
        for (place, job) in waiting.into_iter().enumerate() {
            let picture = drawn.as_ref().map(|drawn| drawn.pictures[place].clone());
            // A client that has stopped waiting gets no picture.
            let _ = job.answer.send(picture.map_err(ToString::to_string));
        }
    }
    calls
}

/// What a thread of the program calls.
fn draw(jobs: &Sender<Job>, prompt: &str, seed: u64) -> anyhow::Result<RgbImage> {
    let (answer, picture) = channel();
    jobs.send(Job { prompt: prompt.to_owned(), seed, answer })?;
    picture.recv()?.map_err(|reason| anyhow!(reason))
}

fn main() -> anyhow::Result<()> {
    let pipeline = Pipeline::embedded(&dmd::device::open("flex")?)?;
    let (jobs, inbox) = channel();
    let worker = thread::spawn(move || work(pipeline, inbox));
    let colours = ["red", "green", "blue", "yellow", "purple", "black"];
    let clients = colours.into_iter().zip(1..).map(|(colour, seed)| {
        let jobs = jobs.clone();
        thread::spawn(move || draw(&jobs, &format!("a large {colour} triangle in the centre"), seed))
    });
    let clients: Vec<_> = clients.collect();
    let pictures: Vec<RgbImage> =
        clients.into_iter().map(|client| client.join().expect("no panic")).collect::<anyhow::Result<_>>()?;
    let refused = draw(&jobs, &"a very long prompt ".repeat(40), 0);
    drop(jobs); // the worker ends when the last sender is gone
    let calls = worker.join().expect("no panic") - 1;

    save(&grid(&pictures, 3), "serve_from_your_app.png".as_ref())?;
    println!("{} pictures in {calls} calls: serve_from_your_app.png", pictures.len());
    let Err(reason) = refused else { return Err(anyhow!("a prompt of 160 words was drawn")) };
    println!("refused: {reason}");
    ensure!(calls <= pictures.len(), "a picture took more than one call");
    Ok(())
}
