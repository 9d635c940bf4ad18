use std::time::Duration;

/// What a server allows.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The model's name, in answers and pictures.
    pub model: String,
    /// What a request must carry as `Authorization: Bearer TOKEN`; `None` lets everybody draw.
    pub token: Option<String>,
    /// Origins of pages elsewhere that may use the API; none by default.
    pub origins: Vec<String>,
    /// Requests that may wait; one more is refused with 429.
    pub waiting: usize,
    /// Pictures that are drawn in one batch.
    pub together: usize,
    /// Most pictures of a request.
    pub pictures: usize,
    /// Longest side of a picture, in pixels.
    pub side: usize,
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
    /// Pictures that are kept for OpenAI's `url` answers.
    pub kept: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: "dmd".to_owned(),
            token: None,
            origins: Vec::new(),
            waiting: 64,
            together: 16,
            pictures: 16,
            side: 2048,
            prompt: 2000,
            steps: 150,
            body: 64 << 10,
            time: Duration::from_secs(300),
            connections: 512,
            kept: 64,
        }
    }
}
