"""Where widgets are on the screen, and what must be drawn anew because one went."""

from textual._compositor import Compositor, CompositorMap


class WholeMaps(Compositor):
    """Textual's compositor, which forgets a widget that went while it looked.

    It draws what differs between its map before and after a layout. Where the map is asked for
    between the going of a widget and the layout, both are alike, and a message that has gone stays
    on the terminal: its place is noted here.
    """

    @property
    def full_map(self) -> CompositorMap:
        """Return the map of all widgets; the places of those that went since are drawn anew."""
        before = self._full_map
        found = super().full_map
        if found is not before:
            gone = (before[widget] for widget in before.keys() - found.keys())
            places = (one.clip.intersection(one.region) for one in gone)
            self._dirty_regions.update(place for place in places if place)
        return found
