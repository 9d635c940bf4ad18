use std::time::Duration;

/// What a server allows.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The model's name, in answers and pictures.
    pub model: String,
    /// What a request must carry as `Authorization: Bearer TOKEN`; `None` lets everybody draw.
    pub token: Option<String>,
    /// Origins of pages elsewhere that may use the API, such as `https://example.org`; none by default.
    pub origins: Vec<String>,
    /// Names of this server, beside `localhost` and addresses, that a request without a token may give as its host.
    pub names: Vec<String>,
    /// What `url` answers begin with, behind a proxy; otherwise `http://` and the host that the request names.
    pub public_url: Option<String>,
    /// Requests that may wait; one more is refused with 429.
    pub waiting: usize,
    /// Pictures of several requests that are drawn in one batch, at most. A request of more is drawn by itself.
    pub together: usize,
    /// Most pictures of a request.
    pub pictures: usize,
    /// Longest side of a picture, in pixels; `None` is twice the model's own.
    pub side: Option<usize>,
    /// Longest prompt, in bytes.
    pub prompt: usize,
    /// Most steps of a teacher.
    pub steps: usize,
    /// Largest body of a request, in bytes.
    pub body: usize,
    /// How long a request may wait and be drawn.
    pub time: Duration,
    /// Connections that are open at a time.
    pub connections: usize,
    /// Pictures that are kept for OpenAI's `url` answers, the newest; at least as many as a request may have.
    pub kept: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: "dmd".to_owned(),
            token: None,
            origins: Vec::new(),
            names: Vec::new(),
            public_url: None,
            waiting: 64,
            together: 16,
            pictures: 16,
            side: None,
            prompt: 2000,
            steps: 150,
            body: 64 << 10,
            time: Duration::from_secs(300),
            connections: 512,
            kept: 64,
        }
    }
}
