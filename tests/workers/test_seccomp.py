import pytest

from workers.seccomp import filter_program

# One instruction of classic BPF, and the most that the kernel takes.
SIZE, MOST = 8, 4096


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_a_whole_number_of_instructions(machine: str) -> None:
    program = filter_program(machine)
    assert program is not None
    assert len(program) % SIZE == 0
    assert 40 < len(program) // SIZE < MOST


def test_a_machine_without_a_table_has_no_filter() -> None:
    assert filter_program("riscv64") is None
