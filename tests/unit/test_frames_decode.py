"""Opening videos: exactly the frames asked for, in that order, from every kind of source; damage is named."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tamis.core.rng import numpy_generator
from tamis.transforms.frames import video as decode
from tamis.transforms.frames.video import VideoError, open_video
from tests.unit.video_tools import av, decode_all, encode, pictures

GRID = Path(__file__).parents[3] / "shared" / "data" / "grid_s1" / "clips.parquet"
REQUESTS = [[0], [29], [3, 1, 29], [29, 3, 1], [5, 5, 9], list(range(30)), [14, 15, 16, 14]]


@pytest.fixture(scope="module")
def clip():
    return encode(pictures(30))


@pytest.mark.parametrize("indices", REQUESTS)
def test_frames_come_in_the_order_asked_for(clip, indices):
    video = open_video(clip, backend="pyav")
    assert video.num_frames == 30
    wanted = decode_all(clip)[indices]
    np.testing.assert_array_equal(video.frames(np.array(indices)).numpy(), wanted)
    np.testing.assert_array_equal(video.frames(np.array(indices)).numpy(), wanted)  # again, from where it stands


@pytest.mark.parametrize(("gop", "b_frames"), [(1, 0), (4, 3), (30, 2), (250, 0)])
@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "h264"])
def test_random_requests_equal_a_full_decode(gop, b_frames, container):
    content = encode(pictures(30), gop=gop, b_frames=b_frames, container=container)
    every = decode_all(content)
    video = open_video(content, backend="pyav")
    assert video.num_frames == len(every) == 30
    for seed in range(10):
        indices = numpy_generator(seed).integers(30, size=1 + seed % 5)
        np.testing.assert_array_equal(video.frames(indices).numpy(), every[indices])


def test_variable_frame_rates_keep_their_times():
    pts = np.cumsum(np.array([0, *([10] * 10), *([400] * 10), *([33] * 9)])).tolist()
    content = encode(pictures(30), pts=pts)
    video = open_video(content, backend="pyav")
    np.testing.assert_allclose(np.diff(video.times), np.diff(pts) / 1000, atol=2e-3)
    indices = np.array([25, 11, 12, 3])
    np.testing.assert_array_equal(video.frames(indices).numpy(), decode_all(content)[indices])


def test_every_kind_of_source_gives_the_same_frames(clip, tmp_path):
    from datasets import Dataset, Video
    from PIL import Image

    every = decode_all(clip)
    path = tmp_path / "a.mp4"
    path.write_bytes(clip)
    hf = Dataset.from_dict({"video": [str(path)]}).cast_column("video", Video(decode=False))
    sources = [
        str(path),
        path,
        clip,
        {"path": str(path), "bytes": None},
        {"path": "nowhere.mp4", "bytes": clip},
        hf[0]["video"],
        torch.from_numpy(every),
        every.transpose(0, 2, 3, 1),
        [Image.fromarray(frame.transpose(1, 2, 0)) for frame in every],
    ]
    for source in sources:
        video = open_video(source)
        np.testing.assert_array_equal(video.frames(np.array([29, 0, 7])).numpy(), every[[29, 0, 7]])
        small = video.frames(np.array([29, 0]), (8, 12))
        assert small.shape == (2, 3, 8, 12)
        assert abs(small.float().mean() - every[[29, 0]].mean()) < 4
        video.close()


def test_grey_tensors_become_rgb():
    assert open_video(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)).frames(np.array([1])).shape == (1, 3, 4, 4)


def test_damage_is_named(clip, tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "folder.mp4").mkdir()
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=16_000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 16_000, 0
        out.mux([*stream.encode(sound), *stream.encode(None)])
    for source, message in [
        (tmp_path / "absent.mp4", r"absent.mp4: no such file"),
        (tmp_path / "empty.mp4", r"empty.mp4: is empty, 0 bytes"),
        (b"", r"clip: is empty, 0 bytes"),
        (tmp_path / "folder.mp4", r"folder.mp4: is a folder; give a file"),
        (tmp_path / "sound.mp4", r"sound.mp4: has no video stream, only sound"),
        ({"path": None, "bytes": None}, "clip: is None; leave rows"),
        (tmp_path / "text.mp4", r"text.mp4: cannot be read"),
        (clip[: len(clip) // 2], "cannot be read"),
        ([], "has no frames"),
        (torch.zeros(0, 3, 4, 4, dtype=torch.uint8), "has no frames"),
    ]:
        with pytest.raises(VideoError, match=message):
            open_video(source, "clip")
    with pytest.raises(VideoError, match=r"must be in \[0, 30\)"):
        open_video(clip).frames(np.array([30]))
    for source, message in [(7, "got int"), (torch.zeros(2, 3, 4, 4), "must be uint8")]:
        with pytest.raises(TypeError, match=message):
            open_video(source)


def copied(folder, content, hidden=0):
    """A copy of the packets with the index in front; an edit list hides the first ``hidden`` frames."""
    path = folder / "front.mp4"
    with (
        av.open(str(path), "w", options={"movflags": "faststart"}) as out,
        av.open(str(_kept(folder, content))) as src,
    ):
        stream = out.add_stream_from_template(src.streams.video[0])
        shift = int(hidden / 25 / src.streams.video[0].time_base)
        for packet in src.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                out.mux(packet)
    return path.read_bytes()


@pytest.mark.parametrize(("gop", "hidden"), [(5, 4), (5, 7), (30, 4)])
def test_a_trimmed_copy_has_the_frames_that_it_shows(tmp_path, gop, hidden):
    content = encode(pictures(30, 64, 96), gop=gop)
    trimmed = copied(tmp_path, content, hidden)
    with av.open(str(tmp_path / "front.mp4")) as container:
        assert container.streams.video[0].frames == 30
    every = decode_all(trimmed)
    assert len(every) == 30 - hidden
    video = open_video(trimmed, backend="pyav")
    assert video.num_frames == 30 - hidden
    for indices in ([0], [29 - hidden, 0, 11], [5, 6, 20]):
        np.testing.assert_array_equal(video.frames(np.array(indices)).numpy(), every[indices])
    with pytest.raises(VideoError, match="cut off"):
        every_frame(trimmed[: int(len(trimmed) * 0.7)])


def test_a_cut_off_file_with_its_index_in_front_is_refused(tmp_path):
    whole = copied(tmp_path, encode(pictures(30, 64, 96)))
    assert open_video(whole).num_frames == 30
    with pytest.raises(VideoError, match="cut off"):
        every_frame(whole[: int(len(whole) * 0.7)])


def every_frame(content):
    video = open_video(content, "x")
    return video.frames(np.arange(video.num_frames))


def _kept(folder, content):
    path = folder / "whole.mp4"
    path.write_bytes(content)
    return path


def test_overwritten_bytes_never_give_another_number_of_frames(clip):
    every, refused = decode_all(clip), 0
    for seed in range(12):
        rng = numpy_generator(seed)
        damaged = bytearray(clip)
        at = int(rng.integers(len(clip) // 4, len(clip) // 2))
        damaged[at : at + 150] = rng.integers(0, 256, 150, dtype=np.uint8).tobytes()
        try:
            assert every_frame(bytes(damaged)).shape == every.shape
        except VideoError:
            refused += 1
    assert refused >= 6


def test_torchcodec_without_ffmpeg_falls_back(clip, monkeypatch):
    pytest.importorskip("torchcodec")
    monkeypatch.setattr(decode, "_torchcodec_loads", True)
    video = open_video(clip)
    assert video.num_frames == 30
    if not decode._torchcodec_loads:
        assert type(video).__name__ == "PyAVFrames"
        with pytest.raises(ImportError, match="torchcodec finds no FFmpeg"):
            open_video(clip, backend="torchcodec")


def test_torchcodec_with_ffmpeg_gives_the_same_pixels(clip, tmp_path):
    """Runs torchcodec on the FFmpeg libraries that PyAV brings, in a process of its own."""
    pytest.importorskip("torchcodec")
    libs = Path(av.__file__).parents[1] / "av.libs"
    for lib in libs.glob("*.so*"):
        stem, _, version = lib.name.partition(".so.")
        (tmp_path / lib.name).symlink_to(lib)
        plain = tmp_path / f"{stem.rsplit('-', 1)[0]}.so.{version.split('.')[0]}"
        if not plain.exists():
            plain.symlink_to(lib)
    (tmp_path / "a.mp4").write_bytes(clip)
    code = (
        "import sys, numpy as np; from tamis.transforms.frames.video import open_video; "
        "from torchcodec.decoders import VideoDecoder; "
        "at=np.array([29, 3, 3, 0]); a=open_video(sys.argv[1], backend='pyav').frames(at);"
        "b=open_video(sys.argv[1]); c=open_video(VideoDecoder(sys.argv[1])); "
        "d=open_video(VideoDecoder(sys.argv[1], dimension_order='NHWC'));"
        "print(type(b).__name__, *(int((x.frames(at).int()-a.int()).abs().max()) for x in (b, c, d)),"
        "c.frames(at, (8, 12)).shape)"
    )
    env = {**os.environ, "LD_LIBRARY_PATH": f"{tmp_path}:{libs}"}
    command = [sys.executable, "-c", code, str(tmp_path / "a.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if "Could not load libtorchcodec" in done.stderr:
        pytest.skip("torchcodec does not load on these FFmpeg libraries")
    assert done.returncode == 0, done.stderr
    kind, *differences = done.stdout.replace("torch.Size([4, 3, 8, 12])", "").split()
    if kind == "PyAVFrames":
        pytest.skip("torchcodec does not load on these FFmpeg libraries")
    assert kind == "TorchcodecFrames"
    assert max(map(int, differences)) <= 2


@pytest.mark.skipif(not GRID.exists(), reason="no ../shared/data/grid_s1")
def test_real_clips_decode_exactly():
    import pyarrow.parquet as pq

    rows = pq.read_table(GRID, columns=["video", "frames"]).slice(0, 5).to_pylist()
    for row in rows:
        video = open_video(row["video"])
        assert video.num_frames == row["frames"]
        indices = np.array([40, 2, 73, 40])
        np.testing.assert_array_equal(video.frames(indices).numpy(), decode_all(row["video"])[indices])


LONGER_THAN_MEMORY = """
import resource, sys
import numpy as np
from tamis.transforms import FrameSelectionCollator, SceneFrames, UniformFrames
from tamis.transforms.frames.video import open_video

FrameSelectionCollator(SceneFrames(), 4, backend="pyav")([(sys.argv[2], 0)])  # what libraries map is mapped now
mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + 48 * 2**20, resource.RLIM_INFINITY))
for selector in (UniformFrames(), SceneFrames()):
    batch = FrameSelectionCollator(selector, 4, candidates=16, backend="pyav")([(sys.argv[1], 0)])
    assert batch["pixel_values"].shape == (1, 4, 3, 240, 320), batch["pixel_values"].shape
    print(batch["frame_indices"][0].tolist())
try:
    clip = open_video(sys.argv[1], backend="pyav")
    clip.frames(np.arange(clip.num_frames))
except (ValueError, RuntimeError):  # of a VideoError, or torch
    print("all frames do not fit")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits of memory are set on Linux only")
def test_a_video_longer_than_memory_is_read_frame_by_frame(tmp_path):
    """1,200 raw frames, 138 MB as a file and 276 MB as pixels, in a process that may take 48 MB more."""
    path, short = tmp_path / "long.nut", tmp_path / "short.nut"
    for file, count in ((path, 1200), (short, 8)):
        with av.open(str(file), "w") as out:
            stream = out.add_stream("rawvideo", rate=25)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            picture = np.zeros((360, 320), np.uint8)
            for number in range(count):
                picture[:240] = number * 255 // count
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
            out.mux(stream.encode())
    assert path.stat().st_size > 130 * 2**20
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LONGER_THAN_MEMORY, str(path), str(short)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    uniform, _, refused = done.stdout.splitlines()
    assert uniform == "[150, 450, 750, 1050]"
    assert refused == "all frames do not fit"
