from training.step_folders import step_folder, step_folders, step_of


def test_folders_of_steps_come_in_the_order_of_their_steps_and_without_those_of_users(tmp_path):
    steps = [9_999_999, 10_000_000, 7]
    for folder in (*(step_folder(tmp_path, step) for step in steps), tmp_path / "step_mine", tmp_path / "step_7"):
        folder.mkdir()
    assert [step_of(path) for path in step_folders(tmp_path)] == sorted(steps)
