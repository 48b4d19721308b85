"""Old names of keys, options and tables, and the names that replaced them."""

from __future__ import annotations

_KEYS = {
    f"train.{name}": f"method.{name}"
    for name in (
        "density",
        "reduction_factor",
        "l1",
        "freeze_layer_norm",
        "dense_epochs",
        "dense_max_steps",
        "dense_learning_rate",
    )
}
_OPTIONS = {
    "experiment": {"pos_lt_sft": "pos", "mad_g": "generator", "nano_mad_g": "nano_generator"},
    "language_modules": {"sentence_mono_mini": "mono", "sentence_mono_thesis": "mono"},
}
_RECIPES = {
    "tagging_mini": "pos",
    "tagging_thesis": "pos",
    "tagging_nano": "nano_fields",
    **{f"{name}_nano": f"nano_{name}" for name in ("language", "generator", "distil", "pretrain")},
    "translation_pretrain": "translation_pretrain",
}


def renamed(word: str) -> str | None:
    """Says what to write instead of an override with an old name; None if the name is not an old one.

    Args:
        word: as on the command line, `KEY=VALUE` or `GROUP=OPTION`.
    """
    name, _, value = word.lstrip("+~").partition("=")
    if name == "train":
        return f"train={value} is recipe={_recipe(value)} now; an experiment chooses its own, so it need not be given"
    if (key := renamed_key(name)) is not None:
        return f"{name} is {key} now, a setting of the methods that have one; write {key}={value}"
    if (option := _OPTIONS.get(name, {}).get(value)) is not None:
        return f"{value} is {option} now; write {name}={option}"
    return None


def renamed_key(name: str) -> str | None:
    """Returns the key or config group that replaced an old one; None if the name is not an old one."""
    return "recipe" if name == "train" else _KEYS.get(name)


def _recipe(option: str) -> str:
    return _RECIPES.get(option) or option.removesuffix("_mini").removesuffix("_thesis")


RENAMED_TABLES = {
    "bistil_las_mini": "table=bistil table.headings=[LAS] scale=mini",
    "bistil_las_thesis": "table=bistil table.headings=[LAS] scale=thesis",
    "bistil_ner_mini": "table=bistil table.headings=[NER] scale=mini",
    "bistil_ner_thesis": "table=bistil table.headings=[NER] scale=thesis",
    "bistil_nli_mini": "table=bistil table.headings=[NLI] scale=mini",
    "bistil_nli_thesis": "table=bistil table.headings=[NLI] scale=thesis",
    "bistil_pos_mini": "table=bistil table.headings=[POS] scale=mini",
    "bistil_qa_em_mini": "table=bistil table.headings=[EM] scale=mini",
    "bistil_qa_em_thesis": "table=bistil table.headings=[EM] scale=thesis",
    "bistil_qa_f1_mini": "table=bistil table.headings=[F1] scale=mini",
    "bistil_qa_f1_thesis": "table=bistil table.headings=[F1] scale=thesis",
    "bistil_uas_mini": "table=bistil table.headings=[UAS] scale=mini",
    "bistil_uas_thesis": "table=bistil table.headings=[UAS] scale=thesis",
    "densities_ner_mini": "table=densities table.headings=[NER] scale=mini",
    "densities_ner_thesis": "table=densities table.headings=[NER] scale=thesis",
    "densities_parsing_mini": "table=densities table.headings=[UAS] scale=mini",
    "densities_parsing_thesis": "table=densities table.headings=[UAS] scale=thesis",
    "figure_3_2": "figure=3.2",
    "figure_3_3": "figure=3.3",
    "figure_4_2": "figure=4.2",
    "figure_4_3": "figure=4.3",
    "figure_4_4": "figure=4.4",
    "figure_5_1": "figure=5.1",
    "figure_6_1": "figure=6.1",
    "figure_6_2": "figure=6.2",
    "figure_6_3": "figure=6.3",
    "figure_7_3": "figure=7.3",
    "figure_7_4": "figure=7.4",
    "figure_E_1": "figure=E.1",
    "figure_E_2": "figure=E.2",
    "importance_mini": "table=typology_importance scale=mini",
    "importance_thesis": "table=typology_importance scale=thesis",
    "instruct_added_thesis": "table=instruct \"table.headings=['Tulu v2 + GPT4-Alpaca']\" scale=thesis",
    "instruct_alpaca_thesis": "table=instruct table.headings=[GPT4-Alpaca] scale=thesis",
    "instruct_curves_mini": "table=instruct_curves scale=mini",
    "instruct_flan_thesis": "table=instruct \"table.headings=['Flan v2']\" scale=thesis",
    "instruct_mixtures_mini": "table=instruct scale=mini",
    "instruct_mixtures_thesis": "table=instruct scale=thesis",
    "instruct_quantised_alpaca_thesis": "table=instruct_quantised table.headings=[GPT4-Alpaca] scale=thesis",
    "instruct_quantised_flan_thesis": "table=instruct_quantised \"table.headings=['Flan v2']\" scale=thesis",
    "instruct_quantised_thesis": "table=instruct_quantised scale=thesis",
    "instruct_speed_mini": "table=instruct_speed scale=mini",
    "instruct_speed_thesis": "table=instruct_speed \"table.headings=['Flan v2']\" scale=thesis",
    "instruct_tulu_thesis": "table=instruct \"table.headings=['Tulu v2']\" scale=thesis",
    "language_overlap_mini": "table=language_overlap scale=mini",
    "language_overlap_thesis": "table=language_overlap scale=thesis",
    "mad_g_ft_las_mini": "table=mad_g_ft table.headings=[LAS] scale=mini",
    "mad_g_ft_las_thesis": "table=mad_g_ft table.headings=[LAS] scale=thesis",
    "mad_g_ft_pos_mini": "table=mad_g_ft table.headings=[POS] scale=mini",
    "mad_g_ft_pos_thesis": "table=mad_g_ft table.headings=[POS] scale=thesis",
    "mad_g_ft_uas_mini": "table=mad_g_ft table.headings=[UAS] scale=mini",
    "mad_g_ft_uas_thesis": "table=mad_g_ft table.headings=[UAS] scale=thesis",
    "mad_g_genus_las_mini": "table=mad_g_genus table.headings=[LAS] scale=mini",
    "mad_g_genus_las_thesis": "table=mad_g_genus table.headings=[LAS] scale=thesis",
    "mad_g_genus_nano": "table=mad_g_nano table.headings=[genus]",
    "mad_g_genus_pos_mini": "table=mad_g_genus table.headings=[POS] scale=mini",
    "mad_g_genus_pos_thesis": "table=mad_g_genus table.headings=[POS] scale=thesis",
    "mad_g_genus_uas_mini": "table=mad_g_genus table.headings=[UAS] scale=mini",
    "mad_g_genus_uas_thesis": "table=mad_g_genus table.headings=[UAS] scale=thesis",
    "mad_g_las_mini": "table=mad_g table.headings=[LAS] scale=mini",
    "mad_g_las_thesis": "table=mad_g table.headings=[LAS] scale=thesis",
    "mad_g_ner_mini": "table=mad_g_ner scale=mini",
    "mad_g_ner_thesis": "table=mad_g_ner scale=thesis",
    "mad_g_pos_mini": "table=mad_g table.headings=[POS] scale=mini",
    "mad_g_pos_thesis": "table=mad_g table.headings=[POS] scale=thesis",
    "mad_g_sources_pos_mini": "table=mad_g_sources table.headings=[POS] scale=mini",
    "mad_g_sources_pos_thesis": "table=mad_g_sources table.headings=[POS] scale=thesis",
    "mad_g_sources_uas_mini": "table=mad_g_sources table.headings=[UAS] scale=mini",
    "mad_g_sources_uas_thesis": "table=mad_g_sources table.headings=[UAS] scale=thesis",
    "mad_g_uas_mini": "table=mad_g table.headings=[UAS] scale=mini",
    "mad_g_uas_thesis": "table=mad_g table.headings=[UAS] scale=thesis",
    "mixes_nano": "table=data_mixes_nano",
    "ner_mini": "table=transfer table.headings=[NER] scale=mini",
    "ner_seen_mini": "table=seen_languages table.headings=[NER] scale=mini",
    "ner_seen_thesis": "table=seen_languages table.headings=[NER] scale=thesis",
    "ner_thesis": "table=transfer table.headings=[NER] scale=thesis",
    "nli_ablations_mini": "table=ablations table.headings=[NLI] scale=mini",
    "nli_ablations_thesis": "table=ablations table.headings=[NLI] scale=thesis",
    "nli_mini": "table=transfer table.headings=[NLI] scale=mini",
    "nli_mixes_mini": "table=data_mixes table.headings=[NLI] scale=mini",
    "nli_mixes_thesis": "table=data_mixes table.headings=[NLI] scale=thesis",
    "nli_resources_mini": "table=resources table.headings=[NLI] scale=mini",
    "nli_resources_thesis": "table=resources table.headings=[NLI] scale=thesis",
    "nli_shots_mini": "table=shots table.headings=[NLI] scale=mini",
    "nli_shots_thesis": "table=shots table.headings=[NLI] scale=thesis",
    "nli_sources_mini": "table=multi_source table.headings=[NLI] scale=mini",
    "nli_sources_thesis": "table=multi_source table.headings=[NLI] scale=thesis",
    "nli_thesis": "table=transfer table.headings=[NLI] scale=thesis",
    "nmt_pairs_mini": "table=translation_pairs scale=mini",
    "parsing_las_mini": "table=transfer table.headings=[LAS] scale=mini",
    "parsing_las_thesis": "table=transfer table.headings=[LAS] scale=thesis",
    "parsing_seen_mini": "table=seen_languages table.headings=[UAS] scale=mini",
    "parsing_seen_thesis": "table=seen_languages table.headings=[UAS] scale=thesis",
    "parsing_sources_las_mini": "table=multi_source table.headings=[LAS] scale=mini",
    "parsing_sources_las_thesis": "table=multi_source table.headings=[LAS] scale=thesis",
    "parsing_sources_uas_mini": "table=multi_source table.headings=[UAS] scale=mini",
    "parsing_sources_uas_thesis": "table=multi_source table.headings=[UAS] scale=thesis",
    "parsing_uas_mini": "table=transfer table.headings=[UAS] scale=mini",
    "parsing_uas_thesis": "table=transfer table.headings=[UAS] scale=thesis",
    "pos_mini": "table=transfer table.headings=[POS] scale=mini",
    "pos_seen_mini": "table=seen_languages table.headings=[POS] scale=mini",
    "pos_seen_thesis": "table=seen_languages table.headings=[POS] scale=thesis",
    "pos_thesis": "table=transfer table.headings=[POS] scale=thesis",
    "qa_sources_em_mini": "table=multi_source_questions table.headings=[EM] scale=mini",
    "qa_sources_em_thesis": "table=multi_source_questions table.headings=[EM] scale=thesis",
    "qa_sources_f1_mini": "table=multi_source_questions table.headings=[F1] scale=mini",
    "qa_sources_f1_thesis": "table=multi_source_questions table.headings=[F1] scale=thesis",
    "sentiment_ablations_mini": "table=ablations table.headings=[SA] scale=mini",
    "sentiment_ablations_thesis": "table=ablations table.headings=[SA] scale=thesis",
    "sentiment_mixes_mini": "table=data_mixes table.headings=[SA] scale=mini",
    "sentiment_mixes_thesis": "table=data_mixes table.headings=[SA] scale=thesis",
    "sentiment_resources_mini": "table=resources table.headings=[SA] scale=mini",
    "sentiment_resources_thesis": "table=resources table.headings=[SA] scale=thesis",
    "sentiment_shots_mini": "table=shots table.headings=[SA] scale=mini",
    "sentiment_shots_thesis": "table=shots table.headings=[SA] scale=thesis",
    "sizes_ner_mini": "table=sizes table.headings=[NER] scale=mini",
    "sizes_ner_thesis": "table=sizes table.headings=[NER] scale=thesis",
    "sizes_nli_mini": "table=sizes table.headings=[NLI] scale=mini",
    "sizes_nli_thesis": "table=sizes table.headings=[NLI] scale=thesis",
    "sizes_parsing_mini": "table=sizes table.headings=[UAS] scale=mini",
    "sizes_parsing_thesis": "table=sizes table.headings=[UAS] scale=thesis",
    "sizes_pos_mini": "table=sizes table.headings=[POS] scale=mini",
    "sizes_pos_thesis": "table=sizes table.headings=[POS] scale=thesis",
    "spiel_ages_mini": "table=spiel_ages scale=mini",
    "spiel_ages_thesis": "table=spiel_ages scale=thesis",
    "spiel_overlap_mini": "table=spiel_overlap scale=mini",
    "spiel_overlap_thesis": "table=spiel_overlap scale=thesis",
    "spiel_schedule_mini": "table=spiel_schedule scale=mini",
    "spiel_schedule_thesis": "table=spiel_schedule scale=thesis",
    "spiel_search_mini": "table=instruct_search scale=mini",
    "spiel_search_thesis": "table=instruct_search table.headings=[7b] scale=thesis",
    "thesis_3_2": "table=3.2",
    "thesis_3_3": "table=3.3",
    "thesis_3_4": "table=3.4",
    "thesis_4_2": "table=4.2",
    "thesis_4_3": "table=4.3",
    "thesis_4_4": "table=4.4",
    "thesis_4_5": "table=4.5",
    "thesis_5_2": "table=5.2",
    "thesis_5_3": "table=5.3",
    "thesis_5_4": "table=5.4",
    "thesis_5_5": "table=5.5",
    "thesis_5_6": "table=5.6",
    "thesis_5_7": "table=5.7",
    "thesis_6_2": "table=6.2",
    "thesis_6_3": "table=6.3",
    "thesis_6_4": "table=6.4",
    "thesis_7_1": "table=7.1",
    "thesis_7_2": "table=7.2",
    "thesis_7_3": "table=7.3",
    "thesis_7_4": "table=7.4",
    "thesis_A_5": "table=A.5",
    "thesis_A_6": "table=A.6",
    "thesis_C_2": "table=C.2",
    "thesis_C_3": "table=C.3",
    "thesis_D_3": "table=D.3",
    "thesis_D_4": "table=D.4",
    "thesis_E_1": "table=E.1",
    "translators_nli_thesis": "table=translators table.headings=[NLI] scale=thesis",
    "translators_sentiment_mini": "table=translators table.headings=[SA] scale=mini",
    "translators_sentiment_thesis": "table=translators table.headings=[SA] scale=thesis",
}
"""Old name after `table=` or `figure=` -> what to write now."""
