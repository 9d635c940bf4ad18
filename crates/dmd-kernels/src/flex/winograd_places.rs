//! Where the transformed tiles of [`winograd`](super::winograd) lie in memory.

use super::disjoint::Disjoint;

/// How transformed tiles lie: panels of `[POINTS, channels, panel]`, each point followed by a gap.
#[derive(Clone, Copy)]
pub(super) struct Places {
    /// Floats from one point to the next, and from one panel to the next.
    pub(super) point_size: usize,
    pub(super) panel_size: usize,
    /// Tiles of a panel.
    pub(super) panel: usize,
    /// The tiles that are held at the moment.
    pub(super) first: usize,
    pub(super) last: usize,
}

/// Where one channel's transformed tiles go.
pub(super) struct Sink<'a> {
    points: &'a Disjoint<'a>,
    places: Places,
    channel: usize,
}

impl<'a> Sink<'a> {
    /// The places of `channel` among those of all channels.
    ///
    /// # Safety
    ///
    /// While this sink is alive no other sink or part of `points` has this channel, `channel` is less than the number
    /// of channels that `places` has room for, and panels and points of `places` do not overlap.
    #[expect(unsafe_code, reason = "the type system cannot see that strided places differ")]
    pub(super) unsafe fn new(points: &'a Disjoint<'a>, places: Places, channel: usize) -> Self {
        Self { points, places, channel }
    }

    /// Whether a tile is held at the moment.
    #[inline(always)]
    pub(super) fn holds(&self, tile: usize) -> bool {
        tile >= self.places.first && tile < self.places.last
    }

    /// Where a tile's point is: `len` tiles from `tile` on lie beside each other, in one panel. The sink is borrowed
    /// as long as the place, so that two places of one sink are never alive at once.
    #[expect(unsafe_code, reason = "sinks have channels of their own, see `Sink::new`")]
    #[inline(always)]
    pub(super) fn at(&mut self, tile: usize, point: usize, len: usize) -> &mut [f32] {
        let places = &self.places;
        let tile = tile - places.first;
        let (panel, column) = (tile / places.panel * places.panel_size, tile % places.panel);
        assert!(column + len <= places.panel, "tiles that lie beside each other are of one panel");
        let at = panel + point * places.point_size + self.channel * places.panel + column;
        // SAFETY: the place lies in this sink's channel, which no other sink has (`Sink::new`), and this one is
        // borrowed mutably as long as the place is.
        unsafe { self.points.part(at, len) }
    }
}
