"""In place of what CPython's build writes: paths of the build machine say nothing here."""

build_time_vars = {
    "TZPATH": "/usr/share/zoneinfo:/usr/lib/zoneinfo:/usr/share/lib/zoneinfo:/etc/zoneinfo"
}
