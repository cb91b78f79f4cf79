"""A job that follows the plan of an earlier one."""

from typing import Any

import pytest

from core.database.session import transaction
from core.database.tables import JobRow
from core.errors import ModelpressError
from core.services import artifacts, attempts, endings, jobs
from core.states import JobState
from tests.conftest import make_tenant
from tests.core.services.makers import ask, make_artifacts, make_dataset, make_job, make_model, make_verdict


class TestPlan:
    def planned(self, tenant: str, **changes: Any) -> tuple[str, str, dict[str, str]]:
        """A finished job on this model and data: its id, and its artifacts by kind."""
        job = make_job(tenant, **changes)
        with transaction() as session:
            claim = attempts.claim(session, "worker")
            assert claim is not None
            attempts.finish(session, claim.lease, make_verdict(), make_artifacts("plan.json", "model.onnx"))
        with transaction() as session:
            return (
                job,
                jobs.get(session, tenant, job).model,
                {each.kind: each.id for each in artifacts.list_(session, tenant, job)},
            )

    def test_a_job_follows_the_plan_of_another(self, tenant: str) -> None:
        first, model, kept = self.planned(tenant)
        with transaction() as session:
            before = jobs.get(session, tenant, first)
            job = jobs.create(session, tenant, ask(model, before.dataset, plan=kept["plan.json"]))
            assert job.plan == kept["plan.json"]
        with transaction() as session:
            claim = attempts.claim(session, "worker")
        assert claim is not None
        assert [file.filename for file in claim.plan] == ["model.onnx"]
        with transaction() as session:
            assert jobs.retry(session, tenant, self.end(job.id)).plan == kept["plan.json"]

    def end(self, job: str) -> str:
        with transaction() as session:
            row = session.get_one(JobRow, job)
            endings.end_job(session, row, JobState.CANCELLED)
        return job

    def test_a_plan_of_other_steps_is_refused_and_of_another_model_told(self, tenant: str) -> None:
        _, model, kept = self.planned(tenant)
        other = make_model(tenant)
        with transaction() as session:
            told = jobs.plan(session, tenant, ask(other, make_dataset(tenant), plan=kept["plan.json"]))
        assert [(each.severity, each.pointer) for each in told.objections if each.pointer == "/plan"] == [
            ("advice", "/plan")
        ]
        assert "another model and another data set" in told.objections[0].text
        with transaction() as session:
            recipe = {"steps": [{"method": "quantize.onnx"}]}
            with pytest.raises(ModelpressError) as caught:
                jobs.create(session, tenant, ask(model, None, plan=kept["plan.json"], recipe=recipe))
        assert (caught.value.code, caught.value.pointer) == ("invalid_request", "/plan")

    def test_that_a_setting_of_a_step_or_the_target_is_another_is_told(self, tenant: str) -> None:
        first, model, kept = self.planned(tenant)
        with transaction() as session:
            dataset = jobs.get(session, tenant, first).dataset
            same = ask(model, dataset, plan=kept["plan.json"])
            other = ask(
                model,
                dataset,
                plan=kept["plan.json"],
                target={"threads": 2},
                recipe={"steps": [{"method": "quantize.linear", "calibration": {"samples": 7}}]},
            )
            told = [
                [each.text for each in jobs.plan(session, tenant, asked).objections if each.pointer == "/plan"]
                for asked in (same, other)
            ]
        assert told == [[], ["The plan was made for another target and another setting, so the bytes may differ."]]

    @pytest.mark.parametrize("kind", ["model.onnx", "foreign", "none"])
    def test_only_a_plan_of_the_tenant_is_a_plan(self, tenant: str, kind: str) -> None:
        _, model, kept = self.planned(make_tenant() if kind == "foreign" else tenant)
        asked = {"model.onnx": kept["model.onnx"], "foreign": kept["plan.json"], "none": "art_none"}[kind]
        model = make_model(tenant)
        with transaction() as session, pytest.raises(ModelpressError) as caught:
            jobs.plan(session, tenant, ask(model, None, plan=asked))
        wanted = "invalid_request" if kind == "model.onnx" else "not_found"
        assert (caught.value.code, caught.value.pointer) == (wanted, "/plan")
