use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use dmd_infer::PipelineBuilder;
use dmd_serve::{Server, Settings};

use super::{DtypeArgs, ModelArgs, PartsArgs, print_opening};
use crate::console::say;

/// Serve a page that draws while you type, and an API: POST /generate, OpenAI's /v1/images/generations
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    dtype: DtypeArgs,
    #[command(flatten)]
    parts: PartsArgs,
    /// Address to listen on; any address but a loopback one needs --token or --open
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 7860)]
    port: u16,
    /// File with a token that requests must send, as `Authorization: Bearer TOKEN`
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
    /// Answer without a token on an address that other machines can reach
    #[arg(long, conflicts_with = "token")]
    open: bool,
    /// Origin of a page on another site that may use the API, e.g. https://example.org; can be given several times
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// Host name by which requests without a token may call this server, besides localhost and addresses; can be given
    /// several times
    #[arg(long)]
    name: Vec<String>,
    /// Beginning of the picture addresses in `url` answers of OpenAI's API, for a server behind a proxy, e.g.
    /// https://example.org
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Number of requests that may wait; a further one gets status 429
    #[arg(long, default_value_t = Settings::default().waiting)]
    waiting: usize,
    /// Largest number of pictures that are drawn in one batch, from several requests
    #[arg(long, default_value_t = Settings::default().together)]
    together: usize,
    /// Largest number of pictures per request
    #[arg(long, default_value_t = Settings::default().pictures)]
    most: usize,
    /// Longest side of a picture, in pixels [default: twice the model's size]
    #[arg(long)]
    side: Option<usize>,
    /// Largest number of the teacher's steps
    #[arg(long, default_value_t = Settings::default().steps)]
    most_steps: usize,
    /// Time limit of a request in seconds, waiting included
    #[arg(long, default_value_t = Settings::default().time.as_secs(), value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

impl ServeArgs {
    fn settings(&self) -> anyhow::Result<Settings> {
        let token = self.token.as_ref().map(|path| {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path:?}"))?;
            let token = text.trim().to_owned();
            ensure!(
                token.len() >= 8,
                "the token in {path:?} has {} bytes; at least 8 are needed",
                token.len()
            );
            let right = token.bytes().all(|byte| byte.is_ascii_graphic());
            ensure!(right, "the token in {path:?} must be one word of ASCII characters");
            Ok(token)
        });
        let token = token.transpose()?;
        ensure!(
            self.host.is_loopback() || token.is_some() || self.open,
            "other machines reach {}: give --token FILE, or --open to let everybody draw",
            self.host
        );
        for (name, value) in
            [("--waiting", self.waiting), ("--together", self.together), ("--most", self.most)]
        {
            ensure!(value > 0, "{name} must be at least 1");
        }
        Ok(Settings {
            model: self.model.name(),
            token,
            origins: self.allow_origin.clone(),
            names: self.name.clone(),
            public_url: self.public_url.clone(),
            waiting: self.waiting,
            together: self.together,
            pictures: self.most,
            side: self.side,
            steps: self.most_steps,
            time: Duration::from_secs(self.seconds),
            ..Settings::default()
        })
    }
}

pub(crate) fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    let settings = args.settings()?;
    let builder = PipelineBuilder::from(args.parts.options(&args.model, args.dtype)?);
    let pipeline = builder.build()?;
    print_opening(pipeline.notes());
    let address = SocketAddr::new(args.host, args.port);
    let server =
        Server::bind(address, pipeline, settings).with_context(|| format!("cannot listen on {address}"))?;
    let stop = server.stop();
    let asked = AtomicBool::new(false);
    let listen = move || {
        if asked.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        stop.stop();
    };
    ctrlc::set_handler(listen).context("cannot listen for Ctrl-C")?;
    say!("http://{}", server.address());
    super::progress::quiet();
    server.run()?;
    Ok(())
}
