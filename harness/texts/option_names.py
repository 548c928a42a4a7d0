"""Suite keys for options of other tools.

The tools are LLaMA-Factory, axolotl, Unsloth, TRL and lm_eval.
"""

from __future__ import annotations

QLORA = 'write use = "qlora" in [adapter]'
SEED = "suite.seed"
OPPOSITE_OPTION_ADVICE = "write completion_only_loss in [train], with the opposite value"
OPTION_NAMES = {  # the name elsewhere -> TABLE.KEY, or what to write instead
    # models
    "base_model": "model.path", "model_name": "model.path", "model_name_or_path": "model.path",
    "pretrained": "model.path", "pretrained_model_name_or_path": "model.path", "model_id": "model.path",
    "model_revision": "model.revision", "torch_dtype": "model.dtype",
    "flash_attn": "train.attn_implementation", "flash_attention": "train.attn_implementation",
    "flash_attention_2": "train.attn_implementation", "use_flash_attention_2": "train.attn_implementation",
    "sdp_attention": "train.attn_implementation", "attention_implementation": "train.attn_implementation",
    "load_in_4bit": QLORA, "quantization_bit": QLORA, "bnb_4bit_quant_type": "adapter.quant_type",
    "bnb_4bit_compute_dtype": "adapter.compute_dtype", "bnb_4bit_use_double_quant": "adapter.double_quant",
    "double_quantization": "adapter.double_quant", "quantization_type": "adapter.quant_type",
    "load_in_8bit": "write use = \"lora\" in [adapter]; 8-bit bases are not trained here",
    "adapter_name_or_path": "candidate.adapter", "lora_model_dir": "candidate.adapter", "peft": "candidate.adapter",
    # adapters
    "finetuning_type": "adapter.use", "adapter": "adapter.use", "use_peft": 'write use = "lora" in [adapter]',
    "lora_rank": "adapter.r", "lora_r": "adapter.r", "rank": "adapter.r", "lora_dim": "adapter.r",
    "alpha": "adapter.lora_alpha", "dropout": "adapter.lora_dropout", "lora_target": "adapter.target_modules",
    "lora_target_modules": "adapter.target_modules", "targets": "adapter.target_modules",
    "lora_target_linear": 'write target_modules = "all-linear" in [adapter]',
    "lora_target_parameters": "adapter.target_parameters", "lora_layers_to_transform": "adapter.layers_to_transform",
    "additional_target": "adapter.modules_to_save", "lora_modules_to_save": "adapter.modules_to_save",
    "lora_use_dora": "adapter.use_dora", "peft_use_dora": "adapter.use_dora", "lora_use_rslora": "adapter.use_rslora",
    "peft_use_rslora": "adapter.use_rslora", "rslora": "adapter.use_rslora", "lora_bias": "adapter.bias",
    "init_lora_weights": "adapter.init_lora_weights", "peft_init_lora_weights": "adapter.init_lora_weights",
    "pissa_init": 'write init_lora_weights = "pissa" in [adapter]', "lora_task_type": "leave it out",
    # data
    "dataset": "train.data", "datasets": "train.data", "dataset_name": "train.data", "dataset_dir": "train.data",
    "train_file": "train.data", "training_file": "train.data", "train_dataset": "train.data", "data_path": "train.data",
    "validation_file": "train.validation_data", "eval_dataset": "train.validation_data",
    "test_datasets": "train.validation_data", "val_size": "train.validation", "val_set_size": "train.validation",
    "validation_split": "train.validation", "test_size": "train.validation",
    "dataset_text_field": 'write columns = { text = "…" } in [train]', "prompt_template": "train.template",
    "field_instruction": 'write columns = { input = "…" } in [train]',
    "field_output": 'write columns = { target = "…" } in [train]',
    "max_samples": 'write a slice, data = "train.jsonl[:1000]", in [train]', "shuffle": "leave it out",
    "cutoff_len": "train.max_length", "sequence_len": "train.max_length", "max_seq_length": "train.max_length",
    "max_seq_len": "train.max_length", "max_len": "train.max_length", "model_max_length": "train.max_length",
    "max_sequence_length": "train.max_length", "seq_length": "train.max_length", "block_size": "train.max_length",
    "sample_packing": "train.packing", "pad_to_sequence_len": "leave it out",
    "train_on_inputs": OPPOSITE_OPTION_ADVICE, "train_on_prompt": OPPOSITE_OPTION_ADVICE,
    "train_on_responses_only": "train.assistant_only_loss", "roles_to_train": "train.assistant_only_loss",
    "preprocessing_num_workers": "train.dataset_num_proc", "dataset_processes": "train.dataset_num_proc",
    "group_by_length": "train.train_sampling_strategy",
    # training
    "stage": "train.use", "rl": "train.use", "trainer": "train.use", "lr": "train.learning_rate",
    "peak_lr": "train.learning_rate", "learning_rate_multiplier": "train.learning_rate",
    "epochs": "train.num_train_epochs", "num_epochs": "train.num_train_epochs", "n_epochs": "train.num_train_epochs",
    "steps": "train.max_steps", "num_steps": "train.max_steps", "num_train_steps": "train.max_steps",
    "max_train_steps": "train.max_steps", "micro_batch_size": "train.per_device_train_batch_size",
    "batch_size": "train.per_device_train_batch_size", "train_batch_size": "train.per_device_train_batch_size",
    "per_gpu_train_batch_size": "train.per_device_train_batch_size",
    "eval_batch_size": "train.per_device_eval_batch_size", "gradient_accumulation": "train.gradient_accumulation_steps",
    "grad_accum": "train.gradient_accumulation_steps", "accumulation_steps": "train.gradient_accumulation_steps",
    "gradient_accumulation_step": "train.gradient_accumulation_steps",
    "optimizer": "train.optim", "optimizer_name": "train.optim", "lr_scheduler": "train.lr_scheduler_type",
    "scheduler": "train.lr_scheduler_type", "cosine_min_lr_ratio": "train.lr_scheduler_kwargs",
    "warmup": "train.warmup_ratio", "early_stopping_patience": "train.patience", "early_stopping": "train.patience",
    "use_gradient_checkpointing": "train.gradient_checkpointing", "grad_checkpoint": "train.gradient_checkpointing",
    "max_grad_value": "train.max_grad_norm", "grad_clip": "train.max_grad_norm", "clip_grad": "train.max_grad_norm",
    "noisy_embedding_alpha": "train.neftune_noise_alpha", "neftune_alpha": "train.neftune_noise_alpha",
    "rl_beta": "train.beta", "dpo_beta": "train.beta", "pref_beta": "train.beta", "kto_beta": "train.beta",
    "dpo_loss_type": "train.loss_type", "pref_loss": "train.loss_type", "rl_loss_type": "train.loss_type",
    "wandb_project": "train.report_to", "use_wandb": "train.report_to", "use_tensorboard": "train.report_to",
    "use_mlflow": "train.report_to", "report": "train.report_to", "evals_per_epoch": "train.watch",
    "eval_steps": "train.watch", "eval_strategy": "train.watch", "evaluation_strategy": "train.watch",
    "saves_per_epoch": "train.save_steps", "save_strategy": "train.save_steps", "random_state": SEED,
    "random_seed": SEED, "data_seed": SEED, "world_size": "train.processes", "num_gpus": "train.processes",
    "fsdp": "train.shard", "deepspeed": "train.shard", "fsdp_config": "train.shard", "zero_stage": "train.shard",
    # exports and evaluations
    "output_dir": "export.to", "export_dir": "export.to", "save_path": "export.to", "hub_model_id": "export.to",
    "num_fewshot": "subject.NAME.shots", "fewshot": "subject.NAME.shots", "tasks": "eval.task",
    "max_gen_toks": "eval.max_new_tokens", "max_tokens": "eval.max_new_tokens", "until": "eval.stop",
    "stop_sequences": "eval.stop", "stop_strings": "eval.stop", "num_samples": "eval.limit",
    "max_completion_tokens": "eval.max_new_tokens", "metric_name": "gate.metric", "threshold": "gate.min",
}  # fmt: skip
